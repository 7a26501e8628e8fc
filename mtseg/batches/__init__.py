"""Balanced mini-batches for training, drawn from stored patches or from whole volumes.

Begin with `pipeline.make_dataset`. `balance` decides which class each sample of a mini-batch has,
`stores` reads the patches, `augmentation` varies them, and `logit_adjustment` corrects a network's
logits for how often each class was drawn.
"""
