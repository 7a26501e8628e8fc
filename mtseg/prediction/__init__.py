"""From scans, in files or in memory, to labels on the scans' own grids.

Begin with `pipeline.segment_scans`. `scan` loads a scan, `segmentation` computes its labels,
`outcome` has what is known about them, `results` writes it to files, `beam` runs on Apache Beam.
"""
