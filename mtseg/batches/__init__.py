"""Balanced mini-batches for training, from stored patches or from whole volumes.

Begin with `pipeline.make_dataset`. `balance` decides which class each sample of a mini-batch has.
`volume_patches` cuts its patches from volumes in memory, `patch_records` reads stored ones, and
`augmentation` changes them at random. `logit_adjustment` corrects the trained network for the
balanced classes.
"""
