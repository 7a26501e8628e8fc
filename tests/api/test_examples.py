"""The examples of the public functions run, and print what they say."""

import doctest
import inspect
from pathlib import Path

import nibabel as nib
import numpy as np

import mtseg
from mtseg.phantoms.scanner import make_phantom

ORDER = ("load", "segment", "evaluate_files", "train", "evaluate")
"""Every public function; an example may use the files that those before it have made."""


def test_the_order_names_every_public_function():
    functions = {name for name in mtseg.__all__ if inspect.isfunction(getattr(mtseg, name))}
    assert functions == set(ORDER)


def test_the_examples_print_what_they_say(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan = make_phantom("brain", seed=0, size=64).image.astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.eye(4)), "scan.nii.gz")
    Path("records").symlink_to(tiny_data.data_dir)
    failed = []
    for name in ORDER:
        names = {"mtseg": mtseg, "nib": nib, "TrainConfig": mtseg.TrainConfig}
        (test,) = doctest.DocTestFinder(recurse=False).find(getattr(mtseg, name), name, globs=names)
        assert test.examples, f"{name} has no example"
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=failed.append)
    assert not failed, "".join(failed)
