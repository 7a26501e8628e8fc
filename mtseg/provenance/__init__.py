"""What prepared records and training runs were made from, so that every change is noticed.

Begin with `fingerprint.Fingerprint`, which is stored beside records and in the folder of a run.
`differences` says in words how two of them differ, `same_scans` finds a scan on both sides of a
split, and `training_data` is what a run remembers. `verified` remembers which files were read.
"""
