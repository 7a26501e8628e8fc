"""One network for every set of tasks, their comparison, and the report of it.

Begin with `plan.plan_experiments` and `run.run_experiments`. `budget` turns minutes into
mini-batches; `compare` says whether multi-task networks are as good; `report/` makes the page.
"""
