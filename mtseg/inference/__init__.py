"""Whole-volume inference: from a prepared volume to class probabilities and labels.

Begin with `dense.DenseNetwork`. `tiling` divides a volume to fit in memory, `tile_graph` computes a
tile, `decision` turns probabilities into labels, `restoration` maps them back to the scan's grid,
and `verdict` checks whether the scan resembles the training data.
"""
