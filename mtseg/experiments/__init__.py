"""Single-task and multi-task networks for a set of tasks: training, comparison, and a report.

Begin with `plan.plan_experiments` and `run.run_experiments`. `budget` turns minutes into
mini-batches, `compare` compares the networks scan by scan, and `report/` makes the page.
"""
