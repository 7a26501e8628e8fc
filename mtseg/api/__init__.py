"""What people call from Python: `mtseg.segment`, `load`, `train`, `evaluate` and `evaluate_files`.

Begin with `functions`; `mtseg` re-exports it. The commands use the same functions, or those that
these are made of.
"""
