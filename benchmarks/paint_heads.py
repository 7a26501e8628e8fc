"""Skull-stripped brains with heads painted around them, as a data set of its own.

    python benchmarks/paint_heads.py BRAINS --out HEADS [--task brain:miccai2012] [--heads 1]
    mtseg-prepare brain:folder --manual-dir HEADS --data-dir DATA
    mtseg-train --tasks brain:miccai2012+folder --data-dir DATA

Labelled brains come without their heads, and users' scans with them. Each scan of BRAINS becomes
HEADS/images/NAME_headN.nii.gz, and its labels, as values 1, 2, ... in the task's order, the file of
that name in HEADS/labels. HEADS/split.csv has the split of BRAINS. The heads are synthetic, the
brains are not. About 20 seconds a head. A run that was stopped goes on where it was; other brains
or another task need another folder.

    heads   how many the folder has
"""

from __future__ import annotations

import zlib
from pathlib import Path

from comparison import finish, make_parser, run_benchmark
from data_sets import has_scan, make_folders, save_scan, save_split

from mtseg.errors import InputError
from mtseg.phantoms.head import paint_head
from mtseg.scans.volume import to_ras
from mtseg.sources.find import find_subjects
from mtseg.sources.reading import read_subject
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task import IGNORED


def main() -> None:
    """Paints the heads; those that are there already stay."""
    parser = make_parser(__doc__)
    parser.add_argument("brains", type=Path, metavar="BRAINS", help="folder of labelled brains")
    parser.add_argument("--out", type=Path, required=True, metavar="HEADS", help="new folder")
    parser.add_argument("--task", default="brain:miccai2012", help="TASK:SOURCE (%(default)s)")
    parser.add_argument("--heads", type=int, default=1, help="for each brain (%(default)s)")
    arguments = parser.parse_args()
    selections = parse_tasks(arguments.task).selections
    if len(selections) > 1 or len(selections[0].sources) > 1 or selections[0].is_default:
        raise InputError(f"--task: give one task with one source, not {arguments.task}.")
    task, (source,) = selections[0].task, selections[0].sources
    found = find_subjects(task, source, arguments.brains).require_sound()
    make_folders(arguments.out)
    rows = []
    for subject in found.subjects:
        names = [f"{subject.name}_head{copy}" for copy in range(arguments.heads)]
        rows += [(name, subject.split) for name in names]
        missing = [name for name in names if not has_scan(arguments.out, name)]
        if not missing:
            continue
        image, label_map = (to_ras(each) for each in read_subject(task, source, subject))
        labels = task.map_labels(label_map.array, found.labels, str(subject.label_path))
        if (labels == IGNORED).any():
            raise InputError(f"{subject.label_path}: has voxels whose class is unknown.")
        for name in missing:
            seed = zlib.crc32(name.encode())  # whatever other brains there are
            try:
                head, kept, affine = paint_head(image.array, labels, image.affine, seed)
            except InputError as error:
                raise InputError(f"{subject.image_path}: {error}") from error
            save_scan(arguments.out, name, head, kept, affine)
            print(f"{name}: {' x '.join(map(str, head.shape))} voxels", flush=True)
    save_split(arguments.out, rows)
    finish("paint_heads", {"heads": len(rows)}, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
