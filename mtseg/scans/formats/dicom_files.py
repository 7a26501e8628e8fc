"""Reading DICOM files one by one: which files are DICOM, their headers and their pixels.

`mtseg.scans.formats.dicom` puts the slices of a series together. Files come from scanners, archives
and discs, so some have no ending, no preamble or no file meta information, and many are compressed.

Reference: DICOM PS3.10, 7 (file format); PS3.3, C.7.6.3 (Image Pixel), C.7.5.1.1.2 (Pixel Padding
Value) and C.11.1 (Modality LUT).
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_ENDING = ".dcm"

UNNAMED_SERIES = "series"
"""The name of a series whose header does not say it."""

DISC_INDEX = "DICOMDIR"
"""Name of the file on a disc that lists its images, which are in folders beside it."""

_NOT_SCANS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
}
"""Storage classes with pixels that are no scan. They often lie beside the series they belong to."""

_IMAGE = "Image Storage"
"""End of the names of storage classes whose files have pixels."""

_FIRST_TYPES = {b"CS", b"DA", b"SH", b"TM", b"UI", b"UL"}
"""Types of the first element of a data set, if types are written."""

_FIRST_BYTES = 1024
"""Largest length of the first element of a data set, if types are not written."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax whose whole data set is deflated."""

_META_BYTES = 4096
"""The file meta information is in these first bytes."""

_MOST_INFLATED_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of a file as they are stored, and what they mean.

    Attributes:
        stored: (frames, rows, columns), integers or floats.
        reversed_from: for MONOCHROME1, in which small values are bright: each value is subtracted
            from this one. None for others.
        padding: lowest and highest stored value that means "outside the field of view"; None if the
            file names none.
        modality_lut: a data set with the table that turns stored values into intensities; None if
            they are rescaled.
    """

    stored: npt.NDArray[Any]
    reversed_from: int | None
    padding: tuple[float, float] | None
    modality_lut: Dataset | None

    def is_padding(self, number: int) -> npt.NDArray[np.bool_] | None:
        """Booleans (rows, columns): where a frame has no image; None if it is not known."""
        if self.padding is None:
            return None
        frame = self.stored[number]
        return np.asarray((frame >= self.padding[0]) & (frame <= self.padding[1]))

    def intensities(self, number: int, slope: float, intercept: float) -> npt.NDArray[np.float64]:
        """The intensities of a frame, float64 (rows, columns).

        MONOCHROME1 is reversed before the values are rescaled, as ITK does.
        """
        values = self.stored[number]
        if self.reversed_from is not None:
            values = self.reversed_from - values.astype(np.int64)
        if self.modality_lut is not None:
            from pydicom.pixels.processing import apply_modality_lut

            return np.asarray(apply_modality_lut(values, self.modality_lut), np.float64)
        return np.asarray(values, np.float64) * slope + intercept


def is_dicom_file(path: Path) -> bool:
    """Whether a file's content is DICOM, whatever its name is.

    A DICOM file has the letters DICM after a preamble of 128 bytes. Some programs write the data
    set alone; it begins with an element of group 2 or 8.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:] == b"DICM":
        return True
    if len(start) < 132 or start[:2] not in (b"\x02\0", b"\x08\0") or start[3] != 0:
        return False
    return start[4:6] in _FIRST_TYPES or int.from_bytes(start[4:8], "little") <= _FIRST_BYTES


def read_headers(path: Path) -> list[tuple[Path, Dataset]]:
    """The headers of all scans among the files of a folder, or that of one file.

    Hidden files, files of other formats, the list of a disc, reports and segmentations are left
    out.

    Raises:
        InputError: if pydicom is missing, the folder cannot be listed, a file is damaged, or there
            is no image.
    """
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be listed ({error.strerror}). Ask for the right to read it."
        ) from error
    headers: list[tuple[Path, Dataset]] = []
    others: set[str] = set()
    for file in files:
        is_named_dicom = file.name.lower().endswith(DICOM_ENDING)
        if path.is_dir() and (file.name.startswith(".") or file.name.upper() == DISC_INDEX):
            continue
        if not is_dicom_file(file):
            if is_named_dicom:
                raise InputError(f"{file}: is a damaged DICOM file, or none. Copy it again.")
            continue
        header = read_header(file)
        with refusing_damage(file):
            storage = header.get("SOPClassUID")
            if what := _NOT_SCANS.get(str(storage)):
                others.add(what)
            elif "Rows" in header and "Columns" in header:
                headers.append((file, header))
            elif storage is None or str(getattr(storage, "name", "")).endswith(_IMAGE):
                # The header of a disc's list has no storage class; its file meta information has.
                meta = header.file_meta.get("MediaStorageSOPClassUID", storage)
                if meta is None or str(getattr(meta, "name", "")).endswith(_IMAGE):
                    raise InputError(f"{file}: is a damaged DICOM file. Copy it again.")
    if not headers:
        what = "no DICOM image" if path.is_dir() else "no image"
        if path.name.upper() == DISC_INDEX:
            what = "the list of a disc, no image. Give the folder it is in instead"
        elif others:
            what += f" but {' and '.join(sorted(others))}"
        verb = "is" if path.name.upper() == DISC_INDEX else "has"
        raise InputError(f"{path}: {verb} {what}. Give a scan file, or the folder of a series.")
    return headers


def group_by_series(folder: Path) -> dict[str, list[Path]]:
    """The images among the DICOM files of a folder, series by series.

    Discs often have all images of an examination in one folder.

    Args:
        folder: its subfolders are not looked into.

    Returns:
        What a console calls each series, such as `3 MR T1 axial` -> its files. Two series of the
        same name are told apart by a number. Empty without pydicom; files that are damaged or have
        no image are in no series.
    """
    found: dict[str, tuple[str, list[Path]]] = {}
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if file.name.upper() == DISC_INDEX or not is_dicom_file(file):
            continue
        with contextlib.suppress(InputError):
            header = read_header(file)
            if "Rows" in header and str(header.get("SOPClassUID")) not in _NOT_SCANS:
                number = header.get("SeriesNumber")
                title = f"{'' if number is None else number} {describe_series(header)}".strip()
                uid = str(header.get("SeriesInstanceUID", ""))
                found.setdefault(uid, (title or UNNAMED_SERIES, []))[1].append(file)
    series: dict[str, list[Path]] = {}
    for title, files in found.values():
        names = (title, *(f"{title} ({number})" for number in range(2, len(found) + 1)))
        series[next(name for name in names if name not in series)] = files
    return series


def describe_series(header: Dataset) -> str:
    """What a console calls a series, such as `MR T1 axial`; "" if the header does not say it."""
    words = (str(header.get(name) or "") for name in ("Modality", "SeriesDescription"))
    return " ".join(" ".join(words).split())


def read_header(path: Path, *, with_pixels: bool = False) -> Dataset:
    """The data set of a DICOM file, also without preamble or file meta information.

    Args:
        path: the file.
        with_pixels: whether the pixels are read too.

    Raises:
        InputError: if pydicom is missing, or the file is damaged.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            f"{path}: reading DICOM needs pydicom. Install it: pip install 'mtseg[dicom]'"
        ) from error
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with refusing_damage(path):
        _require_bounded(path)
        # By force: `is_dicom_file` has looked already, and accepts files without a preamble.
        dataset = pydicom.dcmread(path, stop_before_pixels=not with_pixels, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            is_implicit, is_little_endian = dataset.original_encoding
            if is_little_endian:
                dataset.file_meta.TransferSyntaxUID = (
                    ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
                )
    return dataset


@contextlib.contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turns what pydicom raises into one line; it decodes a value when that is first asked for.

    Args:
        path: the file, or folder, that the block reads.

    Raises:
        InputError: if the block raises anything.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # pydicom raises errors of many types for damaged files
        raise InputError(f"{path}: is a damaged DICOM file. Copy it again.") from error


def _require_bounded(path: Path) -> None:
    """Refuses a deflated file that would fill the memory: pydicom inflates it as a whole.

    Raises:
        InputError: if it inflates to more than `_MOST_INFLATED_BYTES`.
        ValueError: if it does not say where its data set begins.
    """
    with path.open("rb") as file:
        start = file.read(_META_BYTES)
        if start[128:132] != b"DICM" or _DEFLATED not in start:
            return
        if start[132:138] != b"\x02\0\0\0UL":
            raise ValueError("no length of the file meta information")
        file.seek(144 + int.from_bytes(start[140:144], "little"))
        inflating, num_bytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflating.eof:
            packed = inflating.unconsumed_tail or file.read(_PIECE_BYTES)
            piece = inflating.decompress(packed, _PIECE_BYTES)
            num_bytes += len(piece)
            if num_bytes > _MOST_INFLATED_BYTES:
                raise InputError(
                    f"{path}: inflates to more than {_MOST_INFLATED_BYTES / 1e9:.1f} GB. Convert "
                    "it to uncompressed DICOM."
                )
            if not packed and not piece:
                return


def read_pixels(path: Path) -> Pixels:
    """The stored values of a file.

    Raises:
        InputError: if they cannot be decoded, or are colours. If a package is missing that decodes
            them, the message names it.
    """
    dataset = read_header(path, with_pixels=True)
    try:
        _require_decoder(path, dataset)
        stored = np.asarray(dataset.pixel_array)
        is_colour = dataset.get("SamplesPerPixel", 1) != 1
        reversed_from = _reversed_from(dataset, stored)
    except InputError:
        raise
    except Exception as error:  # the decoders of pydicom raise errors of any type
        raise InputError(
            f"{path}: its pixels cannot be decoded ({type(error).__name__}). Copy it again, or "
            "convert it to uncompressed DICOM."
        ) from error
    if is_colour:
        raise InputError(f"{path}: is a colour picture. Give a scan.")
    if stored.ndim == 2:
        stored = stored[np.newaxis]
    return Pixels(
        stored,
        reversed_from,
        _padding(dataset),
        dataset if dataset.get("ModalityLUTSequence") else None,
    )


def _reversed_from(dataset: Dataset, stored: npt.NDArray[Any]) -> int | None:
    """The sum of the lowest and the highest value that a file can store, for MONOCHROME1."""
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1" or stored.dtype.kind not in "iu":
        return None
    return -1 if dataset.PixelRepresentation else 2 ** int(dataset.BitsStored) - 1


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    value = dataset.get("PixelPaddingValue")
    if value is None or not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    limit = limit if isinstance(limit, int) else value
    return min(value, limit), max(value, limit)


def _require_decoder(path: Path, dataset: Dataset) -> None:
    """Refuses pixels that no installed package decodes, and says which one does."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise InputError(
            f"{path}: has no file meta information that says how its pixels are stored. Give the "
            "series as the scanner wrote it."
        )
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(
            f"{path}: is compressed as {syntax.name}, which cannot be decoded. Convert it to "
            "uncompressed DICOM."
        ) from None
    if decoder.is_available:
        return
    # Each line is "plugin - requires package, ..."; GDCM is in the extra of this package.
    can_gdcm = any(line.startswith("gdcm") for line in decoder.missing_dependencies)
    packages = "'mtseg[dicom]'" if can_gdcm else "pylibjpeg pylibjpeg-openjpeg"
    raise InputError(
        f"{path}: is compressed as {syntax.name}, and no package is installed that decodes it. "
        f"Install one: pip install {packages}"
    )
