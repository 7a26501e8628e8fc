"""Training a network: the loop, its steps and checkpoints, devices, and what goes wrong.

Begin with `loop.train_and_evaluate`. `reporting` says what an evaluation during a run writes.
"""
