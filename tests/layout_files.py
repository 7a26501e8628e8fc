"""Small data sets in every layout, all with the same subjects, and files of every format."""

import json

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from mtseg.tasks.task_file import read_task

NAMES = ("a1", "a2", "a3", "a4", "a5")

CLASSES = """
[[classes]]
name = "kidney"
title = "Kidney"

[[classes]]
name = "cyst"
title = "Cyst"
"""

TASK = f"""
name = "renal"
title = "Kidney and cyst"
modality = "MR"
citation = "none"

[spacing]
rule = "fixed"
mm = 1.0

[decision]
rule = "argmax"
{CLASSES}
"""

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (9, 10, 11)


def write_task(path, sources=""):
    path.write_text(TASK + sources)
    return read_task(path)


def subject(number):
    """The scan of a subject, and its label map with the values 0, 1 and 2."""
    rng = np.random.default_rng(number)
    image = rng.integers(1, 900, SHAPE).astype(np.int16)
    return image, rng.integers(0, 3, SHAPE).astype(np.uint8)


def write(path, array, affine=AFFINE):
    """Writes a volume with the library that defines the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, affine), path)
    elif path.suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(array.astype(np.float32), affine), path)
    else:
        image = sitk.GetImageFromArray(array.T)
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        sitk.WriteImage(image, str(path))
    return path


def write_folder(folder, names=NAMES, first=0):
    for number, name in enumerate(names, first):
        image, labels = subject(number)
        write(folder / "images" / f"{name}.nii.gz", image)
        write(folder / "labels" / f"{name}.nii.gz", labels)
    return folder


def write_nnunet(folder, ending=".nii.gz", labels=None, names=NAMES):
    dataset = {
        "channel_names": {"0": "T1"},
        "labels": labels or {"background": 0, "kidney": 1, "cyst": 2},
        "numTraining": len(names),
        "file_ending": ending,
    }
    for number, name in enumerate(names):
        image, label_map = subject(number)
        write(folder / "imagesTr" / f"{name}_0000{ending}", image)
        write(folder / "labelsTr" / f"{name}{ending}", label_map)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def write_msd(folder):
    training = []
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        write(folder / "imagesTr" / f"{name}.nii.gz", image)
        write(folder / "labelsTr" / f"{name}.nii.gz", labels)
        training.append(
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        )
    dataset = {
        "name": "Renal",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "kidney", "2": "cyst"},
        "training": training,
        "test": ["./imagesTs/x.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def write_bids(folder):
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        place = f"sub-{name}/anat/sub-{name}"
        write(folder / f"{place}_T1w.nii.gz", image)
        write(folder / f"derivatives/manual/{place}_dseg.nii.gz", labels)
    table = "index\tname\tabbreviation\n0\tbackground\tB\n1\tkidney\tK\n2\tcyst\tC\n"
    (folder / "derivatives" / "manual" / "dseg.tsv").write_text(table)
    (folder / "dataset_description.json").write_text('{"Name": "Renal", "BIDSVersion": "1.9.0"}')
    return folder


def write_freesurfer(folder):
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        write(folder / name / "mri" / "orig.mgz", image)
        write(folder / name / "mri" / "norm.mgz", image)
        write(folder / name / "mri" / "aseg.mgz", labels)
    write(folder / "fsaverage" / "mri" / "orig.mgz", image)
    return folder


def write_imagecas(folder):
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        write(folder / "1-200" / f"{name}.img.nii.gz", image)
        write(folder / "1-200" / f"{name}.label.nii.gz", labels)
    return folder


def write_asoca(folder):
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        group = folder / ("Normal" if number < 3 else "Diseased")
        write(group / "CTCA" / f"{name}.nrrd", image)
        write(group / "Annotations" / f"{name}.nrrd", labels)
    return folder


def write_miccai2012(folder):
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        write(folder / f"{name[1:]}_SS.nii.gz", image)
        write(folder / f"{name[1:]}_glm.nii.gz", labels)
    return folder


def write_acdc(folder):
    """A patient for each subject, with one labelled frame, and the film that it is from."""
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        frame = int(name[1:])
        patient = folder / "training" / f"patient{frame:03d}"
        place = patient / f"{patient.name}_frame{frame:02d}"
        write(place.with_name(f"{place.name}.nii.gz"), image)
        write(place.with_name(f"{place.name}_gt.nii.gz"), labels)
        write(patient / f"{patient.name}_4d.nii.gz", np.stack([image, image], axis=3))
        (patient / "Info.cfg").write_text(f"ED: {frame}\nES: {frame}\nGroup: DCM\nNbFrame: 30\n")
    return folder


WRITERS = {
    "folder": write_folder,
    "nnunet": write_nnunet,
    "msd": write_msd,
    "bids": write_bids,
    "freesurfer": write_freesurfer,
    "imagecas": write_imagecas,
    "asoca": write_asoca,
    "miccai2012": write_miccai2012,
    "acdc": write_acdc,
}
