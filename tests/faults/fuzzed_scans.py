"""Damaged NIfTI files by number: the same number is always the same file."""

import gzip
import struct

import nibabel as nib
import numpy as np

FIELDS = {
    "sizeof_hdr": (0, "i", 1), "dim": (40, "h", 8), "datatype": (70, "h", 1),
    "bitpix": (72, "h", 1), "pixdim": (76, "f", 8), "vox_offset": (108, "f", 1),
    "scl_slope": (112, "f", 1), "scl_inter": (116, "f", 1), "xyzt_units": (123, "B", 1),
    "qform_code": (252, "h", 1), "sform_code": (254, "h", 1), "quaternion": (256, "f", 6),
    "srow": (280, "f", 12), "magic": (344, "B", 4), "extension": (348, "B", 4),
}  # fmt: skip
"""Where each field of a NIfTI-1 header is, its type and how many numbers it has."""

INTEGERS = [
    0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 512, 1024, 1792, 2048, 32767, -32768, 2304,
]  # fmt: skip
FLOATS = [
    0, -0.0, 1, -1, 1e-45, 1e-10, 1e6, 1e38, -1e38, 3.4e38, 352, 351.9, 2.0**31, 2.0**33,
    np.inf, -np.inf, np.nan,
]  # fmt: skip


def make_file(number):
    """A file's name and content: a sound scan of a few voxels, damaged in one to three places."""
    rng = np.random.default_rng(number)
    content = bytearray(_sound(rng))
    for _ in range(rng.integers(1, 4)):
        content = _damage(content, rng)
    if rng.random() < 0.7:
        return "scan.nii", bytes(content)
    packed = bytearray(gzip.compress(bytes(content), 1, mtime=0))
    if rng.random() < 0.5:
        _flip_bit(packed, rng)
    return "scan.nii.gz", bytes(packed)


def _sound(rng):
    types = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64]
    array = (rng.random(tuple(rng.integers(1, 9, 3))) * 200).astype(types[rng.integers(len(types))])
    if rng.random() < 0.8:
        return nib.Nifti1Image(array, np.diag([*rng.uniform(0.3, 3, 3), 1])).to_bytes()
    return nib.Nifti2Image(array, np.eye(4)).to_bytes()


def _damage(content, rng):
    kind = rng.integers(6)
    if kind < 3:
        place, code, count = FIELDS[list(FIELDS)[rng.integers(len(FIELDS))]]
        place += struct.calcsize(code) * int(rng.integers(count))
        if code == "f":
            value = struct.pack("<f", np.float32(FLOATS[rng.integers(len(FLOATS))]))
        elif code == "B":
            value = bytes([rng.integers(256)])
        else:
            value = struct.pack("<" + code, INTEGERS[rng.integers(len(INTEGERS))])
        content[place : place + len(value)] = value
    elif kind == 3:
        for _ in range(rng.integers(1, 8)):
            _flip_bit(content, rng)
    elif kind == 4:
        del content[rng.integers(1, len(content)) :]
    else:
        place = int(rng.integers(len(content)))
        content[place:place] = rng.integers(0, 256, rng.integers(1, 64), dtype=np.uint8).tobytes()
    return content


def _flip_bit(content, rng):
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
