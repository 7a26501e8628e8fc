"""Training a network: configuration, loop, checkpoints and devices.

Begin with `loop.train_and_evaluate`. `config` has every setting with the paper's values as
defaults, `presets` the named variants, `building` the network and optimisers that a configuration
asks for, `reporting` what an evaluation writes, and `workdir` the files of a run.
"""
