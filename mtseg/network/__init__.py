"""The network of Moeskops et al. (MICCAI 2016), written in Keras.

Begin with `model.build_patch_model`. `layers` has its activation, batch normalisation and dropout;
`folding` prepares its weights for whole volumes.
"""
