"""From scan files to label files: the same labels however the work is divided."""

import dataclasses
import errno
import json
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference import tile_cost
from mtseg.inference.decision import decide
from mtseg.inference.dense import DenseNetwork, dense_probabilities, make_dense_network
from mtseg.models.loading import ExportedModel, Renewal
from mtseg.network.architecture import HALO
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.results import describe_scan_files, is_done, made_from
from mtseg.prediction.scan import load_scan
from mtseg.scans import volume
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.scans.resampling import LINEAR, LinearAxis, interpolate
from mtseg.serving.connection import ModelGoneError, ServerError
from mtseg.tasks.label_table import make_label_table
from mtseg.tasks.task import Task, TissueClass
from tests.inference.test_dense import make_patch_model

NUM_CLASSES = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = make_dense_network(make_patch_model(), "float32")
    names = ("background", "a", "b", "vessel")
    return ExportedModel(
        path=tmp_path_factory.mktemp("none"),
        class_names=names,
        class_task=(None, "organ", "organ", "vessels"),
        thresholds=(None, None, None, 0.2),
        label_table=make_label_table(
            [
                ("organ", TissueClass("a", "A")),
                ("organ", TissueClass("b", "B")),
                ("vessels", TissueClass("vessel", "Vessel")),
            ]
        ),
        network=network,
        kept_alive=None,
    )


def save_scan(path, shape=(40, 12, 14), spacing=(1.0, 1.5, 1.2), seed=0):
    """An oblique scan, stored with its axes in another order than RAS+."""
    array = np.random.default_rng(seed).integers(1, 500, shape).astype(np.int16)
    array[: shape[0] // 4] = 0
    affine = np.array([[0, 0, -1.2, 3], [-1.0, 0, 0, 5], [0, 1.5, 0, 7], [0, 0, 0, 1]])
    affine[:3, :3] = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) * spacing
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def segment(model, scans, out, options=None, **how):
    return list(segment_files(model, scans, out, options or Options(), **how))


def read(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("spacing_mm", [None, 2.0])
def test_labels_are_those_of_the_whole_volume_restored_at_once(model, tmp_path, spacing_mm):
    path = save_scan(tmp_path / "scan.nii")
    ((_, result),) = segment(model, [path], tmp_path, Options(spacing_mm=spacing_mm))
    labels = nib.load(result.label_path)
    np.testing.assert_array_equal(labels.affine, nib.load(path).affine)
    prepared = prepare_scan(read_scan(path), spacing_mm)
    whole = dense_probabilities(model.network, prepared.volume.array)
    # SciPy restores the logarithms of every class to the scan's grid as a whole, and their second
    # differences along each axis.
    canonical = volume.to_ras(prepared.source)
    step = np.divide(canonical.spacing_mm, prepared.volume.spacing_mm)
    mask = prepared.volume.array > 0
    least = 0.01 / max(canonical.array.size / mask.size, 1)
    logarithms = [mask * np.log(whole[..., c] + least) for c in range(NUM_CLASSES)]

    def on_scan(values):
        return interpolate(values.astype(np.float32), canonical.array.shape, step, LINEAR)

    def bend(values, axis):
        three = np.moveaxis(values, axis, 0)
        differences, counts = np.zeros_like(three), np.moveaxis(mask, axis, 0)
        differences[1:-1] = three[:-2] - 2 * three[1:-1] + three[2:]
        differences[1:-1] *= counts[:-2] & counts[1:-1] & counts[2:]
        sizes = mask.shape[axis], canonical.array.shape[axis]
        weight = np.moveaxis(LinearAxis.between(*sizes, step[axis]).weight[:, None, None], 0, axis)
        larger = max(step[axis] ** 2 - 1, 0) / 24  # a voxel is a mean over its length
        return np.maximum(weight * (1 - weight) / 2 - larger, 0) * on_scan(
            np.moveaxis(differences, 0, axis)
        )

    weight = on_scan(mask)
    logarithms = [on_scan(each) - sum(bend(each, a) for a in range(3)) for each in logarithms]
    powers = np.exp(logarithms / np.maximum(weight, 1e-9))
    restored = np.maximum((1 + least * NUM_CLASSES) * powers / powers.sum(axis=0) - least, 0)
    restored /= restored.sum(axis=0)
    restored = np.where(weight > 0.001, restored, np.eye(NUM_CLASSES)[0].reshape(-1, 1, 1, 1))
    expected = np.where(canonical.array, decide(restored, model.thresholds), 0)
    expected = volume.from_ras(expected, prepared.source.affine)
    assert len(np.unique(expected)) > 2
    # Coordinates differ in their last bits, so that a tie may fall otherwise.
    assert (np.asarray(labels.dataobj) == expected).mean() > 0.999
    counts = dict(zip(model.class_names, np.bincount(expected.ravel(), minlength=4), strict=True))
    voxel_ml = np.prod(prepared.source.spacing_mm) / 1000
    for name, volume_ml in result.volumes_ml.items():
        assert volume_ml == pytest.approx(counts[name] * voxel_ml, rel=0.02)


@pytest.mark.promise("scarcity is one line")
def test_a_disk_that_is_full_at_the_verdict_is_one_clear_line(model, tmp_path, monkeypatch):
    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("mtseg.prediction.results.write_json", fail)
    ((_, outcome),) = segment(model, [save_scan(tmp_path / "scan.nii")], tmp_path)
    assert isinstance(outcome, InputError)
    assert "scan_verdict.json: cannot be written (No space left on device)" in str(outcome)


def with_little_memory(model, num_elements):
    """The model on a device whose memory is too small for a tile of more voxels with their halo."""

    def compute(tile, chunk_positions):
        sizes.append((tile.size, int(chunk_positions)))
        if sizes[-1][0] > num_elements:
            raise MemoryError("OOM when allocating")
        return model.network.function(tile, chunk_positions)

    sizes = []
    network = dataclasses.replace(model.network, function=compute)
    return dataclasses.replace(model, network=network), sizes


@pytest.mark.promise("scarcity is one line")
def test_a_tile_that_is_too_large_for_the_device_is_computed_in_smaller_parts(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    path = save_scan(tmp_path / "scan.nii", (100, 12, 14))
    options, works = Options(spacing_mm=1.2), []
    ((_, whole),) = segment(model, [path], tmp_path / "whole", options)
    little, sizes = with_little_memory(model, 10**9)
    segment(little, [path], tmp_path / "trial", options)
    ((largest, chunk),) = sizes
    little, sizes = with_little_memory(model, largest - 1)
    ((_, outcome),) = segment(
        little, [path], tmp_path / "parts", options, on_start=lambda _, work: works.append(work)
    )
    assert len(works) == 2
    assert len(works[1].plan.tiles) > 1
    assert [size for size in sizes[1:] if size[1] == chunk // 4] == sizes[1:]
    np.testing.assert_array_equal(read(outcome.label_path), read(whole.label_path))


@pytest.mark.promise("scarcity is one line")
def test_a_scan_too_large_for_the_device_does_not_end_the_others(model, tmp_path):
    small = save_scan(tmp_path / "small.nii", (20, 12, 14))
    large = save_scan(tmp_path / "large.nii", (90, 12, 14))
    last = save_scan(tmp_path / "last.nii", (20, 12, 14), seed=1)
    little, _ = with_little_memory(model, 90 * 65 * 65)
    outcomes = dict(segment(little, [small, large, last], tmp_path / "out"))
    assert isinstance(outcomes[large], InputError)
    assert str(outcomes[large]).startswith(f"{large}: the memory of the device is too small")
    assert outcomes[small].label_path.exists()
    assert outcomes[last].label_path.exists()
    assert not list((tmp_path / "out").glob("large*"))


@pytest.mark.promise("bounded memory")
@pytest.mark.parametrize("spacing_mm", [None, 0.8, 2.0])
def test_the_memory_changes_neither_labels_nor_probabilities(
    model, tmp_path, spacing_mm, monkeypatch
):
    path = save_scan(tmp_path / "scan.nii.gz", (100, 12, 14))
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    works = []
    options = Options(spacing_mm=spacing_mm, use_probabilities=True)
    segment(model, [path], tmp_path / "all", options, on_start=lambda _, work: works.append(work))
    num_tiles = []
    for share in (0.9, 0.7, 0.5):
        limited = dataclasses.replace(options, memory_bytes=share * works[0].peak_bytes)
        done = []
        ((_, outcome),) = segment(
            model, [path], tmp_path / "less", limited,
            on_start=lambda _, work: works.append(work), on_flop=done.append,
        )  # fmt: skip
        if isinstance(outcome, InputError):
            break
        assert works[-1].peak_bytes <= limited.memory_bytes
        assert sum(done) == works[-1].plan.flop
        num_tiles.append(len(done))
        for name in ("labels", "probabilities"):
            np.testing.assert_array_equal(
                read(tmp_path / "less" / f"scan_{name}.nii.gz"),
                read(tmp_path / "all" / f"scan_{name}.nii.gz"),
            )
    assert max(num_tiles) > 1
    probabilities = read(tmp_path / "all" / "scan_probabilities.nii.gz")
    assert probabilities.shape == (*nib.load(path).shape, NUM_CLASSES)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=0.01)
    np.testing.assert_allclose(probabilities[:25, ..., 0], 1, atol=1e-6)  # no foreground there


@pytest.mark.promise("refused input")
def test_several_scans_come_in_order_and_a_bad_one_does_not_stop_the_others(model, tmp_path):
    scans = [save_scan(tmp_path / f"{n}.nii", (8, 9, 10), seed=n) for n in range(3)]
    bad = tmp_path / "bad.nii"
    bad.write_bytes(b"nothing")
    empty = tmp_path / "empty.nii"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)), empty)
    order = [bad, scans[0], empty, scans[1], scans[2], bad]
    outcomes = segment(model, order, tmp_path / "out")
    assert [path for path, _ in outcomes] == order
    failed = [isinstance(outcome, InputError) for _, outcome in outcomes]
    assert failed == [True, False, True, False, False, True]
    assert "bad.nii" in str(outcomes[0][1])
    assert "empty.nii" in str(outcomes[2][1])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [
        f"{n}_{what}" for n in range(3) for what in ("labels.nii.gz", "verdict.json")
    ]
    for number in range(3):
        segment(model, [scans[number]], tmp_path / "alone")
        name = f"{number}_labels.nii.gz"
        np.testing.assert_array_equal(
            read(tmp_path / "out" / name), read(tmp_path / "alone" / name)
        )


def test_a_verdict_is_written_beside_the_labels(model, tmp_path):
    path = save_scan(tmp_path / "scan.nii")
    ((_, result),) = segment(model, [path], tmp_path, Options(spacing_mm=2.0))
    verdict = json.loads((tmp_path / "scan_verdict.json").read_text())
    assert verdict["volumes_ml"] == result.volumes_ml
    assert verdict["task"] in ("organ", "vessels")
    assert 0 < verdict["mean_confidence"] < 1
    assert verdict["warning"] is None
    assert "score" in verdict


def test_label_files_have_the_labels_of_the_task_files(model, tmp_path):
    """The network's class indices 1, 2, 3 become 5, 3, 200; everything else stays."""
    path = save_scan(tmp_path / "scan.nii")
    classes = [
        ("organ", TissueClass("a", "A", label=5)),
        ("organ", TissueClass("b", "B", label=3)),
        ("vessels", TissueClass("vessel", "Vessel", label=200)),
    ]
    relabelled = dataclasses.replace(model, label_table=make_label_table(classes))
    options = Options(use_probabilities=True)
    ((_, one),) = segment(model, [path], tmp_path / "one", options)
    ((_, other),) = segment(relabelled, [path], tmp_path / "other", options)
    indices, labels = read(one.label_path), read(other.label_path)
    np.testing.assert_array_equal(labels, np.array([0, 5, 3, 200])[indices])
    assert labels.dtype == np.uint8
    assert one.volumes_ml == other.volumes_ml
    np.testing.assert_array_equal(
        read(tmp_path / "one" / "scan_probabilities.nii.gz"),
        read(tmp_path / "other" / "scan_probabilities.nii.gz"),
    )
    names = nib.load(other.label_path).header.extensions[0].get_content()
    assert b'Key="200"' in names


def test_the_verdict_lists_every_class_also_those_that_were_not_found(model, tmp_path):
    path = save_scan(tmp_path / "scan.nii")
    never = dataclasses.replace(model, thresholds=(None, None, None, 1.1))
    ((_, result),) = segment(never, [path], tmp_path)
    verdict = json.loads(result.verdict_path.read_text())
    labels = read(result.label_path)
    voxel_ml = 1.0 * 1.5 * 1.2 / 1000
    for of_class, (name, task, label) in zip(
        verdict["classes"],
        [("a", "organ", 1), ("b", "organ", 2), ("vessel", "vessels", 3)],
        strict=True,
    ):
        count = int((labels == label).sum())
        assert of_class == {
            "class": name, "task": task, "class_index": label, "label": label,
            "num_voxels": count, "volume_ml": round(count * voxel_ml, 3),
        }  # fmt: skip
    assert verdict["classes"][2]["volume_ml"] == 0
    assert verdict["volumes_ml"] == {c["class"]: c["volume_ml"] for c in verdict["classes"]}


def test_a_preview_is_drawn_if_asked_for_and_never_left_behind(model, tmp_path):
    path = save_scan(tmp_path / "scan.nii", (16, 12, 14))
    preview = tmp_path / "scan_preview.png"
    segment(model, [path], tmp_path, Options(use_preview=True))
    assert preview.read_bytes().startswith(b"\x89PNG")
    segment(model, [path], tmp_path)
    assert not preview.exists()  # it might show other labels
    assert Options(use_preview=True).deciding() == Options().deciding()


def test_statistics_do_not_depend_on_how_the_scan_is_divided(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    path, works = save_scan(tmp_path / "scan.nii"), []

    def count(memory_bytes=None):
        options = Options(spacing_mm=1.1, memory_bytes=memory_bytes)
        ((_, outcome),) = segment(
            model, [path], tmp_path, options, on_start=lambda _, work: works.append(work)
        )
        return outcome

    whole = count()
    parts = count(0.7 * works[0].peak_bytes)
    assert len(works[0].plan.tiles) == 1 < len(works[1].plan.tiles)
    num_voxels = [outcome.statistics.num_voxels.sum() for outcome in (whole, parts)]
    assert num_voxels[0] == num_voxels[1]
    np.testing.assert_allclose(whole.statistics.shares, parts.statistics.shares, atol=1e-3)
    assert whole.verdict.mean_confidence == pytest.approx(parts.verdict.mean_confidence, abs=1e-4)


@pytest.mark.promise("bounded memory")
def test_a_scan_too_large_for_the_memory_is_refused_before_it_is_read(model, tmp_path):
    path = save_scan(tmp_path / "scan.nii")
    ((_, refusal),) = segment(model, [path], tmp_path / "out", Options(memory_bytes=1e4))
    assert str(refusal).startswith(f"{path}: needs 0.0 GB to be prepared")
    assert "--memory-gb" in str(refusal)
    ((_, refusal),) = segment(model, [path], tmp_path / "out", Options(memory_bytes=1e7))
    assert str(refusal).startswith(f"{path}: computing it needs at least 0.2 GB of memory")
    assert not (tmp_path / "out").exists()


@pytest.mark.promise("bounded memory")
@pytest.mark.parametrize("spacing_mm", [None, 1.0])
def test_the_scan_as_stored_is_freed_while_it_is_prepared(model, tmp_path, spacing_mm):
    """Mostly air: at most two float32 arrays at once, the stored one and the one in RAS+."""
    array = np.zeros((100, 100, 100), np.int16)
    array[40:60, 40:60, 40:60] = 300
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    options = Options(spacing_mm=spacing_mm)
    load_scan(model, tmp_path / "scan.nii", options, 1e9)  # imports are not measured
    tracemalloc.start()
    try:
        loaded = load_scan(model, tmp_path / "scan.nii", options, 1e9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 9 * array.size
    assert peak < loaded.reading_bytes


@pytest.mark.promise("atomic outputs")
def test_a_defect_while_computing_leaves_no_file(model, tmp_path):
    def fail(tile, chunk_positions):
        raise RuntimeError("a defect")

    broken = dataclasses.replace(model, network=DenseNetwork(fail, NUM_CLASSES, "float32", 1000))
    path = save_scan(tmp_path / "scan.nii")
    with pytest.raises(RuntimeError):
        segment(broken, [path], tmp_path / "out", Options(use_probabilities=True))
    assert not list((tmp_path / "out").iterdir())


@dataclasses.dataclass(frozen=True)
class Gone:
    """A network that plans, and whose server no longer has its version."""

    network: DenseNetwork
    precision: str = "float32"
    engine: str = "server"
    num_classes: int = NUM_CLASSES

    def plan(self, *arguments, **how):
        return self.network.plan(*arguments, **how)

    def run_all(self, volume, plan):
        raise ModelGoneError("grpc://here/mtseg: the server has no such model")


def test_a_version_with_other_labels_does_not_take_the_place_of_the_one_before(model, tmp_path):
    """However often it is tried; one with the same labels does, and is remembered."""
    image = np.random.default_rng(0).integers(20, 900, (6, 5, 4)).astype(np.int16)
    scan = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(image, np.eye(4)), scan)
    given = Options(spacing_mm=1.0)
    others = dataclasses.replace(model, label_table=model.label_table[::-1])
    titles = [dataclasses.replace(entry, title="Corrected") for entry in model.label_table]
    corrected = dataclasses.replace(model, label_table=tuple(titles))
    for newest, is_taken in ((others, False), (model, True), (corrected, True)):
        renewal = Renewal(lambda newest=newest: newest)
        old = dataclasses.replace(model, network=Gone(model.network), renewal=renewal)
        for number in range(2):
            out = tmp_path / f"{id(newest)}{number}"
            if is_taken:
                ((_, outcome),) = segment_files(old, [scan], out, given)
                assert outcome.label_path.exists()
            else:
                with pytest.raises(ServerError, match="other labels than the one before"):
                    list(segment_files(old, [scan], out, given))
        assert renewal.newest is (newest if is_taken else None)


@dataclasses.dataclass(frozen=True)
class GoneLater(Gone):
    """The same, but the version answers some requests before it is gone."""

    answers: list[None] = dataclasses.field(default_factory=list)

    def run_all(self, volume, plan):
        if not self.answers:
            return super().run_all(volume, plan)
        self.answers.pop()
        return self.network.run_all(volume, plan)


@pytest.mark.parametrize("num_answers", [0, 2])
def test_a_version_that_is_gone_while_a_voxel_size_is_recognised_is_renewed(
    model, tmp_path, num_answers
):
    """At once, or for a scan that is read ahead while the one before is computed."""
    tasks = tuple(
        Task(name, name, "MR", (TissueClass(f"of_{name}", name),), "fixed", spacing_mm, "argmax")
        for name, spacing_mm in (("organ", 1.0), ("vessels", 2.0))
    )
    renewal = Renewal(lambda: newest)
    newest = dataclasses.replace(model, tasks=tasks, renewal=renewal)
    network = GoneLater(model.network, answers=[None] * num_answers)
    old = dataclasses.replace(newest, network=network)
    paths = [save_scan(tmp_path / f"{number}.nii") for number in range(3)]
    outcomes = segment(old, paths, tmp_path / "out")
    assert [outcome.label_path.is_file() for _, outcome in outcomes] == [True] * 3


def test_a_given_version_that_is_gone_ends_the_command(model, tmp_path):
    paths = [save_scan(tmp_path / "scan.nii")]
    with pytest.raises(ModelGoneError):
        segment(dataclasses.replace(model, network=Gone(model.network)), paths, tmp_path / "out")


def state_of(path, options, model):
    return made_from(describe_scan_files(path), model.identify(), "float32", options.deciding())


def test_a_scan_that_changes_while_it_is_computed_is_not_done(model, tmp_path):
    known, options = dataclasses.replace(model, model_id="m"), Options(spacing_mm=2.0)
    path = save_scan(tmp_path / "scan.nii", (16, 12, 14))

    def change(*_):
        save_scan(path, (16, 12, 15))

    segment(known, [path], tmp_path / "out", options, on_start=change)
    assert not is_done(tmp_path / "out" / "scan", state_of(path, options, known))
    segment(known, [path], tmp_path / "out", options)
    assert is_done(tmp_path / "out" / "scan", state_of(path, options, known))


def test_a_scan_that_is_removed_while_it_is_computed_has_its_results(model, tmp_path):
    scans = [save_scan(tmp_path / f"{n}.nii", (16, 12, 14)) for n in range(2)]
    outcomes = segment(model, scans, tmp_path / "out", on_start=lambda path, _: path.unlink())
    assert [outcome.label_path.is_file() for _, outcome in outcomes] == [True, True]


@pytest.mark.promise("atomic outputs")
def test_new_probabilities_do_not_stay_beside_the_labels_of_an_earlier_command(
    model, tmp_path, monkeypatch
):
    """Killed before the labels are written, a command leaves results that are not done."""
    known = dataclasses.replace(model, model_id="m")
    options = Options(spacing_mm=2.0, use_probabilities=True)
    path = save_scan(tmp_path / "scan.nii", (16, 12, 14))
    segment(known, [path], tmp_path / "out", options)
    stem = tmp_path / "out" / "scan"
    assert is_done(stem, state_of(path, options, known))

    def kill(*_):
        raise RuntimeError("killed")

    monkeypatch.setattr("mtseg.prediction.pipeline.write_results", kill)
    with pytest.raises(RuntimeError, match="killed"):
        segment(dataclasses.replace(known, model_id="n"), [path], tmp_path / "out", options)
    assert not is_done(stem, state_of(path, options, known))


def test_no_voxel_gets_a_class_of_another_task_by_a_rounding_error(tmp_path):
    """The network is sure of the class that is excluded; all others are next to nothing."""
    tasks = tuple(
        Task(name, name, "MR", tuple(TissueClass(c, c) for c in classes), "fixed", 1.0, "argmax")
        for name, classes in (("organ", "ab"), ("vessels", "cde"))
    )
    classes = [(task.name, tissue) for task in tasks for tissue in task.classes]

    def compute(tile, chunk_positions):
        count = np.count_nonzero(tile[HALO:-HALO, HALO:-HALO, HALO:-HALO])
        rows = 10 ** np.random.default_rng(0).uniform(-10, -6, (count, 6))
        rows[:, 1] += 1 - rows.sum(axis=1)
        return rows.astype(np.float32)

    sure = ExportedModel(
        path=tmp_path,
        class_names=("background", *(tissue.name for _, tissue in classes)),
        class_task=(None, *(name for name, _ in classes)),
        thresholds=(None,) * 6,
        label_table=make_label_table(classes),
        network=DenseNetwork(compute, 6, "float32", 10**6),
        kept_alive=None,
        tasks=tasks,
    )
    rng = np.random.default_rng(0)
    array = rng.integers(1, 500, (60, 50, 40)) * (rng.random((60, 50, 40)) < 0.6)
    image = nib.Nifti1Image(array.astype(np.int16), np.diag([0.71, 0.83, 0.47, 1]))
    nib.save(image, tmp_path / "scan.nii")
    ((_, result),) = segment(sure, [tmp_path / "scan.nii"], tmp_path, Options(task="vessels"))
    assert set(np.unique(read(result.label_path))) == {0, 3, 4, 5}
