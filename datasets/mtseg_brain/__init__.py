"""TFDS builder: Six tissues in T1-weighted brain MR."""
