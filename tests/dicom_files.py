"""DICOM series, written by pydicom: one file for each CT slice, or one multi-frame file."""

import gc
import locale
import warnings

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SLOPE, INTERCEPT = 0.5, -1024.0


def write_series(folder, array, affine, series_uid=None, order=None, modality="CT"):
    """Writes a volume as a series of slices.

    Args:
        folder: made if missing.
        array: (i, j, k); each k is a slice. Intensities are rounded to halves.
        affine: voxel index to RAS+ world in mm.
        series_uid: of the series; None makes a new one.
        order: the slices k in the order of the file names; None is ascending.
        modality: as the header names it. The storage class is that of CT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series_uid, study_uid, frame_uid = series_uid or generate_uid(), generate_uid(), generate_uid()
    place = _place(affine)
    for name, k in enumerate(range(array.shape[2]) if order is None else order):
        dataset = _dataset(CTImageStorage, array[..., k].T, series_uid, study_uid, frame_uid)
        dataset.ImagePositionPatient = (place["origin"] + k * place["step"]).tolist()
        dataset.ImageOrientationPatient = place["axes"]
        dataset.PixelSpacing = place["spacing"]
        dataset.SliceThickness = float(np.linalg.norm(place["step"]))
        dataset.InstanceNumber, dataset.Modality = name + 1, modality
        dataset.RescaleSlope, dataset.RescaleIntercept = SLOPE, INTERCEPT
        dataset.save_as(folder / f"{name:04d}.dcm", enforce_file_format=True)
    return folder


def write_multiframe(path, array, affine, order=None):
    """Writes a volume as one enhanced CT file; `order` is that of the frames in the file."""
    uids = generate_uid(), generate_uid(), generate_uid()
    order = range(array.shape[2]) if order is None else order
    place = _place(affine)
    slices = np.stack([array[..., k].T for k in order])
    dataset = _dataset(EnhancedCTImageStorage, slices, *uids)
    dataset.NumberOfFrames = array.shape[2]
    shared, measures, orientation, rescaling = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = place["spacing"]
    measures.SliceThickness = float(np.linalg.norm(place["step"]))
    orientation.ImageOrientationPatient = place["axes"]
    rescaling.RescaleSlope, rescaling.RescaleIntercept = SLOPE, INTERCEPT
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelValueTransformationSequence = [rescaling]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = (place["origin"] + k * place["step"]).tolist()
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.save_as(path, enforce_file_format=True)
    return path


def _place(affine):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    columns = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    i_mm, j_mm, _ = np.linalg.norm(lps[:3, :3], axis=0).tolist()
    return {
        "origin": lps[:3, 3],
        "step": lps[:3, 2],
        "axes": [*columns[:, 0].tolist(), *columns[:, 1].tolist()],
        "spacing": [j_mm, i_mm],
    }


def _dataset(kind, intensities, series_uid, study_uid, frame_uid):
    """A data set without its place; intensities are (rows, columns) or (frames, rows, columns)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series_uid, study_uid
    dataset.FrameOfReferenceUID = frame_uid
    dataset.PatientName, dataset.PatientID = "Phantom^Synthetic", "phantom"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.SeriesNumber, dataset.Modality = 1, "CT"
    dataset.Manufacturer = "none"
    dataset.Rows, dataset.Columns = intensities.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    stored = np.rint((intensities - INTERCEPT) / SLOPE).astype("<i2")
    dataset.PixelData = np.ascontiguousarray(stored).tobytes()
    return dataset


def change(path, **fields):
    """Rewrites fields of a file."""
    dataset = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def encode(folder, encoder):
    """Compresses the files of a series.

    Args:
        folder: of the series; the files are replaced.
        encoder: a transfer syntax that pydicom encodes; `JPEG` for JPEG Lossless, or `JPEG2000`, by
            ITK.
    """
    before = locale.setlocale(locale.LC_ALL)
    for path in sorted(folder.iterdir()):
        if encoder in ("JPEG", "JPEG2000"):
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.LoadPrivateTagsOn()
            image = reader.Execute()
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.UseCompressionOn()
            writer.SetCompressor(encoder)
            writer.SetFileName(str(path))
            writer.Execute(image)
            locale.setlocale(locale.LC_ALL, before)  # ITK has changed that of the process
        else:
            dataset = pydicom.dcmread(path)
            dataset.compress(encoder, generate_instance_uid=False)
            dataset.save_as(path)


def without_meta(path, *, is_implicit=True):
    """Rewrites a file as its data set alone: no preamble and no file meta information."""
    dataset = pydicom.dcmread(path)
    del dataset.file_meta
    dataset.save_as(path, implicit_vr=is_implicit, little_endian=True)


def write_disc(folder, series):
    """Writes a disc: a DICOMDIR and its folders, with the files of several series.

    Args:
        folder: of the disc.
        series: folders of series.
    """
    from pydicom.fileset import FileSet

    disc = FileSet()
    for path in series:
        for file in sorted(path.iterdir()):
            disc.add(file)
    disc.write(folder)
    with warnings.catch_warnings():  # pydicom leaves its temporary folder to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        del disc
        gc.collect()
    return folder
