"""From scan files to label files on the scans' own grids.

Begin with `pipeline.segment_files`. `scan` loads a scan, `segmentation` computes its labels,
`results` names the files that are written, `probability_file` writes 4-D probabilities, and `beam`
runs on Apache Beam.
"""
