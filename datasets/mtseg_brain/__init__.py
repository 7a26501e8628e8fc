"""TFDS builder: six tissues in T1-weighted brain MR."""
