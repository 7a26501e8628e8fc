"""Damaged files of every kind but NIfTI, by number: taken soundly, or refused by one clear line.

`test_hostile_scans` does the same for NIfTI. What is damaged also names its own checksums, as a
hostile file would: they are removed, so that what reads it sees the damage.
"""

import contextlib
import functools
import io
import json
import shutil
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mtseg
from mtseg.errors import InputError
from mtseg.records.reading import read_volumes
from mtseg.runs.manifest import MANIFEST, PACKAGED, WEIGHTS
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.serving.messages import decode_response, encode_request
from mtseg.sources.find import find_subjects
from mtseg.system.checksums import CHECKSUMS
from mtseg.tasks.task_file import read_task, shipped_path, shipped_tasks
from mtseg.viewer.uploads.upload import Limits, Upload
from tests.dicom_files import encode, write_multiframe, write_series
from tests.faults.damage import VALUES, damage_bytes, damage_json, damage_text
from tests.layout_files import write, write_msd, write_nnunet, write_task
from tests.viewer.test_uploads import HOSTILE_NAMES

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

PER_PART = 50
MOST_SECONDS = 20.0

COUNTS = {
    "itk": 600, "dicom_header": 600, "dicom_pixels": 400, "task_file": 700, "dataset_json": 500,
    "tfrecord": 250, "array_record": 250, "manifest": 350, "weights": 150, "zip": 700,
    "served_answer": 500,
}  # fmt: skip
"""How many files of each kind the whole campaign tries."""


def pytest_generate_tests(metafunc):
    scale = metafunc.config.getoption("--scale")
    parts = [
        (kind, part)
        for kind, count in COUNTS.items()
        for part in range(max(1, round(count * scale / PER_PART)))
    ]
    metafunc.parametrize(("kind", "part"), parts)


@functools.cache
def array():
    return np.random.default_rng(0).integers(1, 900, (6, 7, 5)).astype(np.int16)


def scan_outcome(path):
    """Reads a scan and prepares it: True if it was taken."""
    prepared = prepare_scan(read_scan(path), may_overwrite=True).volume.array
    assert np.isfinite(prepared).all()
    assert prepared.max() > 0
    return True


def itk(folder, rng, _):
    name = ["scan.nrrd", "scan.nhdr", "scan.mha", "scan.mhd"][rng.integers(4)]
    path = write(folder / name, array())
    others = [other for other in folder.iterdir() if other != path]
    target = path if not others or rng.random() < 0.8 else others[0]
    content = target.read_bytes()
    head = content[:400]
    if rng.random() < 0.6 and b"\n" in head:  # a field of the header, in place of any byte
        lines = content.split(b"\n")
        place = int(rng.integers(min(len(lines) - 1, 15)))
        sign = b"=" if b"=" in lines[place] else b":"
        value = str(VALUES[rng.integers(len(VALUES))]).encode(errors="replace")
        lines[place] = lines[place].split(sign)[0] + sign + b" " + value
        target.write_bytes(b"\n".join(lines))
    else:
        target.write_bytes(damage_bytes(content, rng))
    return functools.partial(scan_outcome, path)


ENCODERS = [
    None, None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99", "JPEG", "JPEG2000",
]  # fmt: skip


@functools.cache
def series(root, encoder):
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    folder = root / f"series {encoder}"
    # ITK's encoders need more than a few pixels.
    pixels = array()[..., :3] if encoder is None else np.tile(array()[..., :3], (7, 6, 1))
    write_series(folder, pixels.astype(float), affine)
    if encoder == "1.2.840.10008.1.2.1.99":  # deflated
        import pydicom

        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = encoder
            dataset.save_as(path)
    elif encoder is not None:
        encode(folder, encoder)
    return folder


@functools.cache
def multiframe(root):
    folder = root / "multiframe"
    folder.mkdir()
    path = folder / "scan.dcm"
    write_multiframe(path, array()[..., :3].astype(float), np.diag([-1.0, -1.0, 2.0, 1.0]))
    return folder


def dicom(folder, rng, root, part):
    encoder = ENCODERS[rng.integers(len(ENCODERS))] if part == "pixels" else None
    source = multiframe(root) if rng.random() < 0.25 else series(root, encoder)
    for path in source.iterdir():
        shutil.copy(path, folder)
    files = sorted(folder.iterdir())
    target = files[rng.integers(len(files))]
    content = target.read_bytes()
    pixels = content.rfind(b"\xe0\x7f\x10\x00")
    if part == "pixels":
        target.write_bytes(damage_bytes(content, rng, max(pixels, 132)))
    else:
        head = damage_bytes(content[:pixels], rng, 132)
        target.write_bytes(head + content[pixels:])
    return functools.partial(scan_outcome, folder)


def dicom_header(folder, rng, root):
    return dicom(folder, rng, root, "header")


def dicom_pixels(folder, rng, root):
    return dicom(folder, rng, root, "pixels")


def task_file(folder, rng, _):
    names = shipped_tasks()
    text = Path(shipped_path(names[rng.integers(len(names))])).read_text()
    path = folder / "task.toml"
    path.write_bytes(damage_text(text, rng))
    return lambda: read_task(path) is not None


def dataset_json(folder, rng, _):
    layout, writer = [("msd", write_msd), ("nnunet", write_nnunet)][rng.integers(2)]
    task = write_task(folder / "task.toml")
    data = writer(folder / "data")
    path = data / "dataset.json"
    path.write_bytes(damage_json(json.loads(path.read_text()), rng))

    def find():
        for subject in find_subjects(task, layout, data).subjects:
            for named in (subject.image_path, subject.label_path):
                assert Path(named).resolve().is_relative_to(data.resolve())
        return True

    return find


@functools.cache
def prepared(root):
    from tests.conftest import prepare_breast

    return prepare_breast(root / "prepared", num_test=1, num_train=1)


def contents_of(data_dir, kind):
    """What training reads of records."""
    if kind == "volumes":
        return [
            (subject.name, subject.image.tobytes(), subject.class_index_map.tobytes())
            for split in ("train", "test")
            for subject in read_volumes(data_dir, "breast", "phantom", split)
        ]
    from mtseg.batches.patch_records import open_patches

    records = open_patches(data_dir, "breast", "phantom")
    out = np.zeros((len(records.offset), 3, 51, 51), np.float16)
    records.read(np.arange(len(records.offset)), list(out))
    return records.class_index.tolist(), records.scan.tolist(), out.tobytes()


def records(folder, rng, root, kind):
    sound = prepared(root)
    shutil.copytree(sound / "mtseg_breast", folder / "mtseg_breast")
    (place,) = folder.glob(f"mtseg_breast/phantom_{kind}/*")
    shards = sorted(place.glob("*record-*"))
    described = sorted(path for path in place.glob("*.json"))
    if rng.random() < 0.7:
        target = shards[rng.integers(len(shards))]
        target.write_bytes(damage_bytes(target.read_bytes(), rng))
    else:
        target = described[rng.integers(len(described))]
        target.write_bytes(damage_json(json.loads(target.read_text()), rng))
    is_shard = target in shards

    def read():
        found = contents_of(folder, kind)
        # A description that names fewer records is another data set; a shard's bytes are checked.
        assert not is_shard or found == contents_of(sound, kind)
        return True

    return read


def tfrecord(folder, rng, root):
    return records(folder, rng, root, "patches")


def array_record(folder, rng, root):
    return records(folder, rng, root, "volumes")


def model(folder, rng, file):
    for path in PACKAGED.iterdir():
        shutil.copy(path, folder)
    (folder / CHECKSUMS).unlink()  # a hostile model has checksums that are right
    path = folder / file
    if file == MANIFEST:
        path.write_bytes(damage_json(json.loads(path.read_text()), rng))
    else:
        path.write_bytes(damage_bytes(path.read_bytes(), rng))

    def load():
        loaded = mtseg.load(folder, engine="openvino")
        assert loaded.class_names[0] == "background"
        return True

    return load


def zip_upload(folder, rng, _):
    file = io.BytesIO()
    names = ["a/1.dcm", "scan.nii", *HOSTILE_NAMES]
    kinds = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of names that are there already
        for _ in range(rng.integers(1, 6)):
            name = names[rng.integers(len(names))].encode(errors="replace").decode()
            member = zipfile.ZipInfo(name)
            member.external_attr = int(rng.choice([0, 0o120777, 0o040755, 0o020666])) << 16
            member.compress_type = kinds[rng.integers(2)]
            archive.writestr(member, rng.bytes(int(rng.integers(200))))
    upload = Upload(folder / "uploads" / "1", "drop", Limits(10_000, 20))
    content = damage_bytes(file.getvalue(), rng) if rng.random() < 0.9 else file.getvalue()

    def unpack():
        try:
            upload.receive("study.zip", io.BytesIO(content), len(content))
            upload.unpack()
        finally:
            found = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
            assert all(path.is_relative_to(upload.folder) for path in found)
            assert not any(path.is_symlink() for path in found)
            assert sum(path.stat().st_size for path in found) <= 20_000
        return True

    return unpack


def served_answer(folder, rng, _):
    from mtseg.serving.rest import _to_array

    if rng.random() < 0.5:
        # A request has the same parts as an answer: names with tensors.
        arrays = {"y": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.arange(3)}
        content = damage_bytes(encode_request("m", 1, "s", arrays, ["y"]), rng)
        read = functools.partial(decode_response, content)
    else:
        values = {"outputs": {"y": [[1.5, 2.5], [1, 2]], "manifest": ["{}"]}}
        content = json.loads(_sound_json(damage_json(values, rng)))
        columns = content.get("outputs") if isinstance(content, dict) else None
        columns = columns if isinstance(columns, dict) else {}
        read = lambda: [_to_array(column) for column in columns.values()]  # noqa: E731

    def take():
        try:
            read()
        except (ValueError, MemoryError) as error:  # what the connection turns into one line
            raise InputError(str(error).replace("\n", " ")) from error
        return True

    return take


def _sound_json(text):
    try:
        json.loads(text)
    except ValueError:
        return "{}"
    return text


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("sound")


@pytest.mark.promise("refused input", kind="fuzzed")
def test_a_damaged_file_is_taken_soundly_or_refused(kind, part, root, tmp_path, record_property):
    record_property("cases", PER_PART)
    make = {
        "itk": itk, "dicom_header": dicom_header, "dicom_pixels": dicom_pixels,
        "task_file": task_file, "dataset_json": dataset_json, "tfrecord": tfrecord,
        "array_record": array_record, "zip": zip_upload, "served_answer": served_answer,
        "manifest": lambda folder, rng, _: model(folder, rng, MANIFEST),
        "weights": lambda folder, rng, _: model(folder, rng, WEIGHTS),
    }[kind]  # fmt: skip
    warnings.simplefilter("ignore")  # of the libraries that read the formats
    for number in range(part * PER_PART, (part + 1) * PER_PART):
        rng = np.random.default_rng([list(COUNTS).index(kind), number])
        folder = tmp_path / str(number)
        folder.mkdir()
        read = make(folder, rng, root)
        started = time.monotonic()
        message = ""
        try:
            assert read()
        except InputError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"{kind} {number}: {error!r}") from error
        assert "\n" not in message, f"{kind} {number}: {message}"
        assert time.monotonic() - started < MOST_SECONDS, f"{kind} {number}"
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
