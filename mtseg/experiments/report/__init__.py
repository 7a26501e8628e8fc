"""The report of finished experiments, as HTML or Markdown.

Begin with `contents.make_report`, which puts the sections together. `page` turns them into HTML or
Markdown; each of the other modules has one group of sections or draws their figures.
"""
