"""What is dropped on the page, until it is a scan: files that arrive, zips, series in one folder.

Begin with `upload.Upload`, the files of one drop. `open_uploads` keeps those of a page.
"""
