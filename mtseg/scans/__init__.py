"""Scans as arrays: reading files, resampling, intensities, triplanar patches, writing label maps.

Begin with `reading.read_scan` and `preprocessing.prepare_scan`. `formats` opens the files of each
format, and `volume` explains axes and affines. Prepared arrays have the axes of RAS+.
"""
