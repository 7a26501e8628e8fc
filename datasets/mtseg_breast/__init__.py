"""TFDS builder: the pectoral muscle in T1-weighted breast MR."""
