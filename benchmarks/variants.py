"""The same scan as other scanners and programs store it: is the segmentation the same?

    python benchmarks/variants.py SCAN LABELS [--task brain:miccai2012] [--model DIR]

Writes variants of a labelled scan (other voxel sizes, a rotation, other intensity scales, NRRD,
DICOM), segments each without any flag, and prints mean Dice over the classes of the task and its
difference from that of the plain scan. A variant that is refused counts as 0. Takes half a minute
a variant on two cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison import finish, make_parser, mean_dice_of_task, run_benchmark
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

import mtseg
from mtseg.prediction.pipeline import segment_files
from mtseg.tasks.label_space import parse_tasks


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--task", default="brain:miccai2012", help="TASK:SOURCE (%(default)s)")
    parser.add_argument("--model", help="folder of a model (the one that comes with mtseg)")
    parser.add_argument("--only", nargs="+", help="names of variants")
    arguments = parser.parse_args()
    (selection,) = parse_tasks(arguments.task).selections
    task, source = selection.task, selection.task.source(selection.sources[0])
    model = mtseg.load(arguments.model)
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path, reference in write_variants(arguments.scan, arguments.labels, Path(folder)):
            if arguments.only and name not in {"plain", *arguments.only}:
                continue
            reference = np.asarray(nib.as_closest_canonical(reference).dataobj)
            mapped = task.map_labels(reference, source, str(arguments.labels))
            ((_, outcome),) = segment_files(model, [path], Path(folder) / "out")
            if isinstance(outcome, Exception):
                if name == "plain":
                    raise outcome
                print(f"{name:<24}{outcome}", flush=True)
                scores[name] = 0.0
                continue
            # A DICOM series has its own order of axes and slices.
            found = nib.as_closest_canonical(nib.load(outcome.label_path))
            labels = np.asarray(found.dataobj)
            scores[name] = mean_dice_of_task(mapped, labels, task, model.label_table)
            difference = scores[name] - scores["plain"]
            print(
                f"{name:<24}{scores[name]:.3f}  {difference:+.3f}  {outcome.notes[0]}", flush=True
            )
    worst = min(scores[name] / scores["plain"] for name in scores)
    finish("variants", {"worst_dice_over_plain": worst}, {}, 1, arguments.json)


def write_variants(
    scan_path: Path, label_path: Path, folder: Path
) -> Iterator[tuple[str, Path, nib.Nifti1Image]]:
    """Writes each variant; yields its name, its path and the reference labels on its grid."""
    scan, labels = nib.load(scan_path), nib.load(label_path)
    image = np.asarray(scan.dataobj).astype(np.float32)
    values = nib.Nifti1Image(np.asarray(labels.dataobj).astype(np.int32), labels.affine)

    def save(name: str, array: np.ndarray, affine: np.ndarray = scan.affine) -> Path:
        path = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, affine), path)
        return path

    yield "plain", save("plain", image), values
    for mm in (0.7, 1.5, 3.0):
        affine = scan.affine @ np.diag([*(mm / np.array(scan.header.get_zooms()[:3])), 1])
        shape = tuple(np.ceil(np.array(image.shape) * scan.header.get_zooms()[:3] / mm).astype(int))
        yield f"{mm:g} mm", *on_grid(scan, labels, shape, affine, save, f"{mm:g}mm")
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    centre = scan.affine @ [*(np.array(image.shape) / 2), 1]
    affine = turn @ scan.affine
    affine[:3, 3] += (centre - affine @ [*(np.array(image.shape) / 2), 1])[:3]
    yield "rotated by 20 degrees", *on_grid(scan, labels, image.shape, affine, save, "rotated")
    inside = image > 0
    scored = np.where(inside, (image - image[inside].mean()) / image[inside].std(), 0)
    yield "z-scored in its mask", save("masked", scored.astype(np.float32)), values
    yield "z-scored all over", save("scored", (image - image.mean()) / image.std()), values
    yield "offset by 50", save("offset", image + 50), values
    yield "scaled to 0 ... 1", save("scaled", image / image.max()), values
    yield "as NRRD", write_nrrd(save("for_nrrd", image), folder / "scan.nrrd"), values
    yield "as DICOM", write_dicom(image, scan.affine, folder / "series"), values


def on_grid(scan, labels, shape, affine, save, name):
    """The scan by cubic splines and the labels by nearest neighbour on another grid."""
    image = resample_from_to(scan, (shape, affine), order=3)
    reference = resample_from_to(labels, (shape, affine), order=0)
    # As a scanner writes it: whole numbers from 0, and air where the brain is not.
    array = np.maximum(np.rint(np.asarray(image.dataobj)), 0).astype(np.int16)
    mask = resample_from_to(
        nib.Nifti1Image((np.asarray(scan.dataobj) > 0).astype(np.uint8), scan.affine),
        (shape, affine),
        order=0,
    )
    array[np.asarray(mask.dataobj) == 0] = 0
    whole = np.rint(np.asarray(reference.dataobj)).astype(np.int32)
    return save(name, array, affine), nib.Nifti1Image(whole, affine)


def write_nrrd(nifti: Path, path: Path) -> Path:
    """The same file in NRRD, by SimpleITK."""
    import SimpleITK as sitk

    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    return path


def write_dicom(image: np.ndarray, affine: np.ndarray, folder: Path) -> Path:
    """The same scan as a DICOM series, one file per slice."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir()
    to_lps = np.diag([-1.0, -1.0, 1.0])
    columns, rows, normal = (to_lps @ affine[:3, axis] for axis in range(3))
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(image.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(folder / f"{k}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = (
            MRImageStorage,
            meta.MediaStorageSOPInstanceUID,
        )
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series, study
        dataset.FrameOfReferenceUID, dataset.Modality, dataset.InstanceNumber = frame, "MR", k + 1
        dataset.PatientName, dataset.PatientID = "variant", "variant"
        dataset.Rows, dataset.Columns = image.shape[1], image.shape[0]
        dataset.ImagePositionPatient = [float(v) for v in to_lps @ affine[:3, 3] + k * normal]
        dataset.ImageOrientationPatient = [
            *(columns / np.linalg.norm(columns)), *(rows / np.linalg.norm(rows))
        ]  # fmt: skip
        dataset.PixelSpacing = [float(np.linalg.norm(rows)), float(np.linalg.norm(columns))]
        dataset.SliceThickness = float(np.linalg.norm(normal))
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.PixelData = image[:, :, k].T.astype("<i2").tobytes()
        pydicom.dcmwrite(folder / f"{k}.dcm", dataset, enforce_file_format=True)
    return folder


if __name__ == "__main__":
    run_benchmark(main)
