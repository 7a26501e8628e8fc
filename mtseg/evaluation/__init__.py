"""Scores of a network on labelled scans, and tables and pictures of them.

Begin with `scoring.evaluate_model`. `metrics` and `surfaces` work on plain arrays; `results` is the
record of an evaluation as it is written to JSON; `statistics` compares two networks scan by scan.
"""
