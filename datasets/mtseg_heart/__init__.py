"""TFDS builder: ventricles and myocardium in short-axis cine MR."""
