"""A command of every kind, as short as it can be, for what happens around it."""

import functools

import nibabel as nib
import pytest

from mtseg.phantoms.scanner import make_phantom

SMALL = "--size 32 --num-train 2 --num-test 1 --num-processes 2 "
SMALL += "--kinds patches,volumes --patches-per-class 12"
SHORT = "--global-batch-size 4 --keep 1 --checkpoint-every 1 --evaluate-every 2 --deterministic"

COMMANDS = {
    "prepare": f"prepare breast --data-dir OUT/data {SMALL}",
    "train": f"train --tasks breast --data-dir DATA --workdir OUT {SHORT} --minibatches-per-task 4",
    "evaluate": "evaluate RUN --json OUT/figures.json --csv OUT/figures.csv",
    "experiments": (
        f"experiments --tasks breast --data-dir DATA --out OUT/all {SHORT} --minibatches-per-task 2"
    ),
    "export": "export RUN --serving OUT/models --keep 1",
    "predict": "predict SCANS/1000.nii.gz --model MODEL -o OUT --probabilities",
    "predict on a server": "predict SCANS/1000.nii.gz --server SERVER -o OUT",
    "predict in bulk": "predict SCANS --model MODEL -o OUT --probabilities",
}
"""Each command, in words that stand for paths."""

KILLED = COMMANDS | {
    "train with validation": (
        f"train --tasks breast --data-dir SPLITS --workdir OUT {SHORT} --minibatches-per-task 4"
    ),
    "train from a run": (
        f"train --tasks breast --data-dir DATA --workdir OUT {SHORT} --minibatches-per-task 4 "
        "--init-from RUN"
    ),
    "train on JAX": (
        "train --tasks breast:phantom --data-dir DATA --workdir OUT --global-batch-size 4 --keep 1 "
        "--checkpoint-every 1 --evaluate-every 4 --class-priors natural --minibatches-per-task 4"
    ),
    "predict with OpenVINO": (
        "predict SCANS/1000.nii.gz --model WEIGHTS --engine openvino -o OUT --probabilities"
    ),
}
"""Those that are killed: further engines and ways to train, too."""

LOCAL = [name for name in COMMANDS if "server" not in name]


def at_least(*names):
    """Parameters for every local command; those that are not named run in a thorough run alone."""
    return [
        name if name in names else pytest.param(name, marks=pytest.mark.thorough) for name in LOCAL
    ]


def make_small_work(forked, data_dir, folder):
    """Makes what the commands read: a run, and three scans of breasts."""
    places = {"DATA": lambda: data_dir}
    code, _, err = forked.start(spell("train", places, folder / "run")).finish()
    assert code == 0, err
    (folder / "scans").mkdir()
    for number in range(1000, 1003):
        phantom, file = make_phantom("breast", number, 32), folder / "scans" / f"{number}.nii.gz"
        # The surroundings that a network sees beside a scan cost most: a thin slab has fewest.
        image = nib.Nifti1Image(phantom.image, phantom.affine).slicer[10:22, 8:20, 4:10]
        nib.save(image, file)


def spell(command, places, out):
    """A command's words with the paths that they stand for."""
    words = KILLED[command].split()
    return [
        functools.reduce(
            lambda word, name: word.replace(name, str(places[name]())),
            [name for name in places if name in word],
            word,
        ).replace("OUT", str(out))
        for word in words
    ]
