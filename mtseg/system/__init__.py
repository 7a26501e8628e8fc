"""Files, processes, hardware and progress: what any long-running program needs.

Begin with `atomic_files.atomic_write`. Nothing here knows about scans or networks.
"""
