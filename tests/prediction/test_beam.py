"""Several workers write the same files as one, and a bad scan does not stop them."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.cli import predict as command
from mtseg.errors import InputError
from mtseg.models.export import export_weights
from mtseg.phantoms.scanner import make_phantom
from mtseg.prediction.beam import segment_on_beam
from mtseg.prediction.folder_results import LABEL_TABLES, VOLUMES
from mtseg.prediction.options import Options

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def archive(random_run, tmp_path_factory):
    """Nine phantom scans in a tree, one of them corrupt, and a model."""
    folder = tmp_path_factory.mktemp("archive")
    export_weights(random_run[0], folder / "model")
    for number in range(9):
        task = ("brain", "breast", "cta")[number % 3]
        phantom = make_phantom(task, 1000 + number, 32)
        path = folder / "scans" / task / f"{number}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = phantom.image[:12, 5:16, :8]
        nib.save(nib.Nifti1Image(image, phantom.affine), path)
    corrupt = folder / "scans" / "breast" / "4.nii"
    corrupt.write_bytes(corrupt.read_bytes()[:600])
    return folder


def test_two_workers_write_what_one_command_does(archive, capfd):
    flags = ["--model", str(archive / "model"), "--precision", "float32", str(archive / "scans")]
    assert command.main([*flags, "-o", str(archive / "one")]) == 3
    on_beam = ["--beam-runner", "DirectRunner", "--beam-option=--direct_num_workers=2"]
    on_beam.append("--beam-option=--direct_running_mode=multi_processing")
    assert command.main([*flags, *on_beam, "-o", str(archive / "beam")]) == 3
    printed = capfd.readouterr()
    assert "8 of 9 scans segmented" in printed.out
    assert printed.err.count("4.nii: is truncated") == 2
    names = sorted(p.relative_to(archive / "one") for p in (archive / "one").rglob("*.nii.gz"))
    assert len(names) == 8
    for name in names:
        one, other = (nib.load(archive / where / name) for where in ("one", "beam"))
        np.testing.assert_array_equal(one.dataobj, other.dataobj)
        np.testing.assert_array_equal(one.affine, other.affine)
    left = {p.name for p in (archive / "beam").iterdir()}
    assert left == {"brain", "breast", "cta", VOLUMES, *LABEL_TABLES}  # no file of outcomes
    for name in (VOLUMES, *LABEL_TABLES):
        assert (archive / "beam" / name).read_text() == (archive / "one" / name).read_text()
    # A command that resumes, with Beam or without, finds them done.
    assert command.main([*flags, "-o", str(archive / "beam")]) == 3
    assert "8 of 9 scans already have results" in capfd.readouterr().out


def test_an_unknown_runner_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="Apache Beam does not know it"):
        segment_on_beam([], None, tmp_path, Options(), None, "NoRunner")


def test_two_jobs_share_the_scans_and_a_third_resumes(archive, tmp_path, capfd):
    scans = archive / "scans" / "brain"
    flags = ["--model", str(archive / "model"), str(scans), "-o", str(tmp_path / "out")]
    for part_id in ("0", "1"):
        assert command.main([*flags, "--num-parts", "2", "--part-id", part_id]) == 0
        labels = list((tmp_path / "out").glob("*_labels.nii.gz"))
        assert len(labels) == {"0": 2, "1": 3}[part_id]
    # As if a job had been killed between a scan's labels and its verdict.
    (tmp_path / "out" / "3_verdict.json").unlink()
    capfd.readouterr()
    assert command.main(flags) == 0
    printed = capfd.readouterr().out
    assert "2 of 3 scans already have results" in printed
    assert "3.nii ->" in printed
    assert "6.nii ->" not in printed
    assert command.main([*flags, "--overwrite"]) == 0
    assert "6.nii ->" in capfd.readouterr().out
