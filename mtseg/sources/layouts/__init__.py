"""Layouts: how published data sets name and arrange their scans and label maps.

Begin with `catalog.find_files`. To add a layout, write a function like those of `folders` and list
it in `catalog.LAYOUTS`.
"""
