"""A network between two: each weight is, and an output that one lacks stays that of the other."""

import sys

import numpy as np
import pytest

from mtseg.errors import InputError
from tests.benchmarks.test_benchmarks import load  # noqa: F401


@pytest.fixture
def networks(tiny_data, tmp_path):
    """Folders of runs for breast and cta, and for cta alone, with random weights."""
    import keras

    from mtseg.provenance.training_data import write_training_data
    from mtseg.records.reading import check_training_records
    from mtseg.runs import workdir as run_files
    from mtseg.runs.building import build_model
    from mtseg.runs.config import TrainConfig
    from mtseg.runs.unevaluated import write_unevaluated
    from mtseg.tasks.label_space import parse_tasks

    folders = {}
    for seed, tasks in enumerate(["breast,cta", "cta"]):
        config = TrainConfig(tasks, str(tiny_data.data_dir), backgrounds="by-task")
        label_space = parse_tasks(tasks)
        keras.utils.set_random_seed(seed)
        model = build_model(config, label_space)
        outputs = len(label_space.class_names) - 1 + len(label_space.selections)
        bias = np.arange(outputs, dtype=np.float32) + 10 * seed
        model.get_layer("logits").bias.assign(bias)
        folder = folders[tasks] = tmp_path / tasks
        folder.mkdir()
        run_files.write_config(folder, config, label_space)
        trained, *_ = check_training_records(tiny_data.data_dir, label_space, "volumes")
        write_training_data(folder, trained)
        write_unevaluated(folder, model, 1, 1.0, "none", "none")
    return folders


@pytest.fixture
def average(load, tiny_data, monkeypatch):  # noqa: F811
    """A function that runs the script."""
    module = load("average_networks")

    def run(networks, shares, workdir):
        flags = ["--data-dir", str(tiny_data.data_dir), "--workdir", str(workdir)]
        words = [*map(str, networks), "--shares", *map(str, shares), *flags]
        monkeypatch.setattr(sys, "argv", ["average_networks.py", *words])
        module.main()

    return run


def test_every_weight_is_between_those_of_the_two(networks, average, tmp_path, capsys):
    from mtseg.runs.weights import load_trained

    both, cta = networks["breast,cta"], networks["cta"]
    average([both, cta], [0.25], tmp_path / "run")
    start, end, found = (
        load_trained(folder).model.get_weights() for folder in (both, cta, tmp_path / "run")
    )
    for a, b, c in zip(start[:-2], end[:-2], found[:-2], strict=True):
        np.testing.assert_allclose(c, 0.75 * a + 0.25 * b, atol=1e-6)
    # Outputs: backgrounds of breast and cta, muscle, arteries; the second has the even ones alone.
    np.testing.assert_allclose(found[-1], [0, 0.75 * 1 + 0.25 * 10, 2, 0.75 * 3 + 0.25 * 11])
    np.testing.assert_array_equal(found[-2][..., [0, 2]], start[-2][..., [0, 2]])
    np.testing.assert_allclose(
        found[-2][..., [1, 3]], 0.75 * start[-2][..., [1, 3]] + 0.25 * end[-2], atol=1e-6
    )
    assert "mean_dice_cta: " in capsys.readouterr().out


def test_an_average_remembers_what_its_networks_were_trained_on(networks, average, tmp_path):
    from mtseg.provenance.training_data import TRAINING_DATA, read_all_training_data

    both, cta = networks["breast,cta"], networks["cta"]
    average([both, cta], [0.25], tmp_path / "run")
    known, is_all = read_all_training_data(tmp_path / "run", "")
    assert is_all
    # As records of the run, those of the first network, and that of the second.
    specs = ["breast:phantom", "cta:phantom"]
    assert [print_.spec for print_ in known] == [*specs, *specs, "cta:phantom"]
    (cta / TRAINING_DATA).unlink()
    average([both, cta], [0.25], tmp_path / "other")
    assert not read_all_training_data(tmp_path / "other", "")[1]


def test_a_network_with_other_tasks_is_refused(networks, average, tmp_path):
    with pytest.raises(InputError, match="END: has outputs that START lacks, such as breast/"):
        average([networks["cta"], networks["breast,cta"]], [0.5], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (["1.5"], "1.5 is not a number from 0 to 1."),
        (["nan"], "nan is not a number from 0 to 1."),
        (["0.2", "0.2"], "give one for each END"),
    ],
)
def test_shares_that_are_none_are_refused(networks, average, tmp_path, shares, said, capsys):
    with pytest.raises(SystemExit):
        average([networks["cta"], networks["cta"]], shares, tmp_path / "run")
    assert said in capsys.readouterr().err


def test_shares_of_several_networks_leave_the_rest_to_the_start(networks, average, tmp_path):
    from mtseg.runs.weights import load_trained

    both, cta = networks["breast,cta"], networks["cta"]
    average([both, cta, both], [0.5, 0.3], tmp_path / "run")
    bias = load_trained(tmp_path / "run").model.get_weights()[-1]
    np.testing.assert_allclose(bias, [0, 0.5 * 1 + 0.5 * 10, 2, 0.5 * 3 + 0.5 * 11], rtol=1e-6)


def test_a_run_of_other_shares_is_not_taken_for_that_of_these(networks, average, tmp_path, capsys):
    both, cta = networks["breast,cta"], networks["cta"]
    average([both, cta], [0.25], tmp_path / "run")
    first = capsys.readouterr().out
    average([both, cta], [0.25], tmp_path / "run")  # resumes: all is done
    assert capsys.readouterr().out.splitlines()[-3:] == first.splitlines()[-3:]
    with pytest.raises(InputError, match=r"has the run of another command .*--shares 0\.25 "):
        average([both, cta], [0.5], tmp_path / "run")
