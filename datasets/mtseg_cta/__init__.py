"""TFDS builder: Coronary arteries in cardiac CT angiography."""
