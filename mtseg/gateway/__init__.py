"""The DICOM gateway of `mtseg-serve-dicom`: it receives series, segments them and sends DICOM SEG.

Begin with `serving`, which joins the parts. `spool` keeps what was received until it is delivered;
`receiver` and `delivery` speak DICOM with others, `segmenting` computes one series.
"""
