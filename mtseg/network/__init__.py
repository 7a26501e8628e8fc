"""The convolutional network of Moeskops et al. (MICCAI 2016), in Keras.

Begin with `model.build_patch_model`, the network that is trained. `layers` has its activation,
batch normalisation and dropout. `folding` gives the trained weights in the form in which whole
volumes are computed.
"""
