"""Scores of a network on labelled scans, and tables and pictures of them.

Begin with `scoring.evaluate_model`, which makes a `results.Evaluation`. `metrics` and `surfaces`
work on plain arrays, `counts` and `stored_scan` on scans; `statistics` compares two networks.
"""
