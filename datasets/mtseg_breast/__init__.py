"""TFDS builder: Pectoral muscle in T1-weighted breast MR."""
