"""The examples of the public functions run, and print what they say."""

import doctest
import inspect

import nibabel as nib
import numpy as np
import pytest

import mtseg
from mtseg.phantoms.scanner import make_phantom

FUNCTIONS = [name for name in mtseg.__all__ if inspect.isfunction(getattr(mtseg, name))]


@pytest.fixture(scope="module")
def folder(tiny_data, tmp_path_factory):
    """A folder with what the examples name: a scan and prepared records."""
    folder = tmp_path_factory.mktemp("examples")
    scan = make_phantom("brain", seed=0, size=32).image.astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.eye(4)), folder / "scan.nii.gz")
    (folder / "records").symlink_to(tiny_data.data_dir)
    return folder


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_example_prints_what_it_says(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {"mtseg": mtseg, "nib": nib, "TrainConfig": mtseg.TrainConfig}
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(mtseg, name), name, globs=names)
    assert test.examples, f"{name} has no example"
    failed = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=failed.append)
    assert not failed, "".join(failed)
