"""The report of finished experiments, as HTML or Markdown.

Begin with `contents.make_report`, which puts the blocks of the page together; `page` turns blocks
into HTML or Markdown.
"""
