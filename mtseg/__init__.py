"""mtseg: one network that segments scans of different modalities and anatomies.

Importing the package is instant: TensorFlow is imported by the modules that compute with it.
"""

__version__ = "0.1.0"
