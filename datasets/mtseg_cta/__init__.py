"""TFDS builder: the coronary arteries in cardiac CT angiography."""
