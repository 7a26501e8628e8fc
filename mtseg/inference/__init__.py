"""Whole-volume inference: from a prepared volume to class probabilities and labels.

Begin with `dense.DenseNetwork`. `tiling` divides a volume by what `tile_cost` says, `tile_graph`
computes a tile, `decision` turns probabilities into labels, and `restoration` takes them back to
the scan's grid. `postprocessing` removes stray components and fills holes if a task asks for it.
`recognition` chooses a voxel size, `verdict` is the out-of-distribution check.
"""
