"""Training a network: the loop, its steps and checkpoints, devices, and what goes wrong.

Begin with `loop.train_and_evaluate`. `callbacks` says what can be called while a run trains, and
`reporting` what an evaluation during a run writes.
"""
