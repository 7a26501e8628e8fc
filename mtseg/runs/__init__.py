"""What a training run is and leaves: its configuration, its folder, and its network with weights.

`config` has every setting with the paper's values as defaults, `presets` the named variants,
`building` the network and optimiser that a configuration asks for. `workdir` has the files of a
run's folder, `unevaluated` weights that are not scored yet, `manifest` the file that describes an
exported network. Begin with `weights.load_trained`, which reads a network from either.
"""
