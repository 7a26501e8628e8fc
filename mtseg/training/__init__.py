"""Training a network: configuration, loop, checkpoints and devices.

Begin with `loop.train_and_evaluate`. `config` holds every setting with the paper's values as
defaults, `presets` the named variants, `workdir` the layout of a run's folder.
"""
