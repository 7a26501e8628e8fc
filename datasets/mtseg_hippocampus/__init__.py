"""TFDS builder: two parts of the hippocampus in crops of T1-weighted brain MR."""
