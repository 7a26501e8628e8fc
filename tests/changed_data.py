"""Changes of a data set of five scans after it was prepared, and how each is said in words."""

import os

from tests.layout_files import subject, write, write_folder

LABELS = "\n[sources.folder.labels]\nbackground = [0]\nkidney = [1]\ncyst = [2]\n"
"""The end of a task file."""


def split_of(scans, **sides):
    lines = [f"{name},{side}" for side, names in sides.items() for name in names.split()]
    (scans / "split.csv").write_text("\n".join(["subject,split", *lines]))


def correct_label_map(scans):
    write(scans / "labels" / "a1.nii.gz", subject(7)[1])
    return "label map of a1 changed"


def replace_scan(scans):
    write(scans / "images" / "a2.nii.gz", subject(8)[0])
    return "scan of a2 changed"


def replace_scan_keeping_size_and_time(scans):
    path = scans / "images" / "a2.nii.gz"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return "scan of a2 changed"


def write_junk(scans):
    (scans / "labels" / "a3.nii.gz").write_bytes(b"junk")
    return "label map of a3 changed"


def add_subject(scans):
    write_folder(scans, names=["a6"], first=6)
    split_of(scans, train="a1 a2 a3 a4 a6", test="a5")
    return "subject a6 added"


def remove_subject(scans):
    split_of(scans, train="a1 a2 a4", test="a5")
    return "subject a3 removed"


def change_split(scans):
    split_of(scans, train="a2 a3 a4 a5", test="a1")
    return "split of a5 changed from test to train; split of a1 changed from train to test"


CHANGES = [correct_label_map, replace_scan, add_subject, remove_subject, change_split]


def reorder_classes(text):
    head, kidney, cyst = text.split("[[classes]]")
    cyst, labels = cyst.split("[sources")
    return "[[classes]]".join([head, cyst, kidney]) + "[sources" + labels


TASK_CHANGES = {
    "swapped labels": (
        lambda text: text.replace("kidney = [1]\ncyst = [2]", "kidney = [2]\ncyst = [1]"),
        "labels of kidney are 2, were 1; labels of cyst are 1, were 2",
    ),
    "reordered classes": (
        reorder_classes,
        "class 1 is cyst, was kidney; class 2 is kidney, was cyst",
    ),
    "spacing": (lambda text: text.replace("mm = 1.0", "mm = 2.0"), "voxel size is 2 mm, was 1 mm"),
    "modality": (lambda text: text.replace('"MR"', '"CT"'), "modality is CT, was MR"),
}
"""Changes of the text of a task file, and what is said."""
