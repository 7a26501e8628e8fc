"""The formats of scan files: NIfTI and FreeSurfer's MGH, ITK's NRRD and MetaImage, DICOM.

`label_tables` has the formats in which other programs read the names of labels.

Begin with `headers.ScanFile`, which every format returns. To add a format, write a module with a
function that opens a path, and name its endings and its function in `mtseg.scans.reading`.
"""
