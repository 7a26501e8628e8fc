"""Trained networks as files: export to SavedModel, ONNX or LiteRT, and loading them again.

Begin with `export.export_model` and `loading.load`. `signatures` defines what a SavedModel
computes. `packaged/` is the network that ships with mtseg.
"""
