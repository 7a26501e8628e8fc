"""Scans as arrays: reading files, resampling, intensities, triplanar patches, writing label maps.

Begin with `reading.read_scan` and `preprocessing.prepare_scan`. Arrays are RAS+ (axes left to
right, posterior to anterior, inferior to superior) once they are prepared.
"""
