"""Single-task and multi-task networks for a set of tasks: training, comparison, and a report.

Begin with `plan.plan_experiments` and `run.run_experiments`. `budget` turns minutes into
mini-batches, `compare` compares the networks scan by scan, `report/` makes the report, and `stored`
reads test scans with their labels for `mtseg-view`.
"""
