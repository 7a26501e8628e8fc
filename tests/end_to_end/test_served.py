"""Scans segmented by a server in another process: the labels of a local model, or one clear line.

The server is `tests.serving_front`. `MTSEG_TF_SERVING=127.0.0.1:GRPC_PORT:REST_PORT` names a
TensorFlow Serving that is asked instead; it has to serve the folder `MTSEG_TF_SERVING_FOLDER`.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

import mtseg
from mtseg.errors import InputError
from mtseg.inference.dense import dense_probabilities
from mtseg.phantoms.scanner import make_phantom
from mtseg.prediction.folder_results import LABEL_TABLES, VOLUMES
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.runs.manifest import versions
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.serving.address import ServerOptions, parse_address
from mtseg.serving.connection import ModelGoneError, ServerError
from mtseg.serving.folder import prune
from mtseg.serving.remote_model import connect
from tests.faults.forked_commands import Started, forked_as_users_do

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Front:
    """A server's process and where it listens."""

    process: Started | None
    grpc_port: int
    rest_port: int
    fault_file: Path

    def address(self, scheme="grpc", path="mtseg"):
        port = self.grpc_port if scheme.startswith("grpc") else self.rest_port
        return f"{scheme}://127.0.0.1:{port}/{path}"

    @contextlib.contextmanager
    def fault(self, text):
        self.fault_file.write_text(text)
        yield
        self.fault_file.unlink()


@contextlib.contextmanager
def start_front(folder, fault_file, *arguments):
    command = ["tests.serving_front", folder, "--fault-file", fault_file, *arguments]
    process = forked_as_users_do().start(command)
    try:
        while not (printed := process.stdout_path.read_text()).endswith("\n"):
            assert not process.has_ended(0.05), process.finish()
        ports = printed.split()
        yield Front(process, int(ports[0]), int(ports[1]), fault_file)
    finally:
        process.kill()
        process.finish()


@pytest.fixture(scope="module")
def folder(serving_folder, tmp_path_factory):
    """The served folder: `mtseg`, and `other`, which is no model of this project."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(serving_folder / "mtseg", folder / "mtseg")
    shutil.copy(serving_folder / "batching.config", folder)
    other = tf.Module()
    other.double = tf.function(
        lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
    )
    tf.saved_model.save(other, str(folder / "other" / "1"), signatures={"double": other.double})
    return folder


@pytest.fixture(scope="module")
def front(folder, tmp_path_factory):
    if named := os.environ.get("MTSEG_TF_SERVING"):
        host, grpc_port, rest_port = named.split(":")
        assert host in ("127.0.0.1", "localhost")
        yield Front(None, int(grpc_port), int(rest_port), Path("none"))
    else:
        fault_file = tmp_path_factory.mktemp("fault") / "fault"
        with start_front(folder, fault_file) as front:
            yield front


@pytest.fixture
def misbehaving(front):
    if front.process is None:
        pytest.skip("faults need the tests' own server")
    return front


@pytest.fixture(scope="module")
def local(folder):
    named = os.environ.get("MTSEG_TF_SERVING_FOLDER")
    return mtseg.load(Path(named) / "mtseg" if named else folder / "mtseg" / "1", "float32")


def save(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Phantoms of the three tasks, shrunk to 1 mm, and an oblique scan of odd shape."""
    folder = tmp_path_factory.mktemp("scans")
    paths = []
    for task in ("brain", "breast", "cta"):
        image = make_phantom(task, 1000, 32).image
        paths.append(save(folder / f"{task}.nii.gz", image, np.eye(4)))
    array = np.random.default_rng(0).integers(0, 500, (23, 9, 14)).astype(np.int16)
    affine = np.array([[0, 0, -1.2, 3], [-1.0, 0.1, 0, 5], [0, 1.5, 0, 7], [0, 0, 0, 1]])
    paths.append(save(folder / "odd.nii", array, affine))
    return paths


# Tiles of about 16 voxels over gRPC and of 14 over HTTP, so that every scan has several.
SMALL = {"grpc": 1_300_000, "http": 7_000_000}


def options(scheme="grpc", **changes):
    return ServerOptions(**{"message_bytes": SMALL[scheme], "retries": 1, **changes})


def read(path):
    return np.asarray(nib.load(path).dataobj)


def segment(model, scans, out, **how):
    outcomes = dict(segment_files(model, scans, out, **how))
    for outcome in outcomes.values():
        assert not isinstance(outcome, InputError), outcome
    return [read(outcome.label_path) for outcome in outcomes.values()]


def assert_parity(front, local, scans, scheme, out):
    tiles = []
    here = segment(local, scans, out / "here")
    model = mtseg.load(front.address(scheme), options=options(scheme))
    there = segment(
        model, scans, out / "there", on_start=lambda _, work: tiles.append(len(work.plan.tiles))
    )
    assert sum(tiles) > len(tiles) + 2
    for one, other in zip(here, there, strict=True):
        assert one.any()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scheme", ["grpc", pytest.param("http", marks=pytest.mark.thorough)])
def test_served_in_tiles_the_labels_are_the_local_models(
    front, local, scans, scheme, tmp_path, pytestconfig
):
    # One scan of several tiles is enough. The command below has the scans of the other tasks.
    few = scans[2:] if pytestconfig.getoption("--thorough") else scans[2:3]
    assert_parity(front, local, few, scheme, tmp_path)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_and_so_are_those_of_a_real_scan(front, local, real_data, scheme, tmp_path):
    whole = nib.load(sorted((real_data / "brain_miccai2012").glob("*_SS.nii.gz"))[0])
    centre = np.array(whole.shape) // 2
    part = whole.slicer[tuple(slice(c - 11, c + 12) for c in centre)]
    nib.save(part, tmp_path / "brain.nii.gz")
    assert_parity(front, local, [tmp_path / "brain.nii.gz"], scheme, tmp_path)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_served_whole_the_labels_are_the_local_models(
    front, local, scans, real_data, scheme, tmp_path
):
    connection = connect(parse_address(front.address(scheme)), ServerOptions())
    brain = nib.load(sorted((real_data / "brain_miccai2012").glob("*_SS.nii.gz"))[0])
    centre = np.array(brain.shape) // 2
    parts = [read(scan)[:19, 2:23, :13] for scan in scans[:3]]
    parts.append(np.asarray(brain.dataobj[tuple(slice(c, c + 15) for c in centre)], np.int16))
    for number, part in enumerate(parts):
        # Equal voxels, so that there is nothing to resample; from right to left.
        path = save(tmp_path / f"{number}.nii", part, np.diag([-1, 1, 1, 1]))
        volume = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj, np.float32)
        answer = connection.predict(
            "segment",
            {"volume": volume[np.newaxis]},
            ("labels", "labels_argmax", "probabilities"),
        )
        assert answer.version == 1
        (labels,) = segment(local, [path], tmp_path)
        np.testing.assert_array_equal(answer.outputs["labels"][0], labels[::-1])
        prepared = prepare_scan(read_scan(path)).volume.array
        np.testing.assert_allclose(
            answer.outputs["probabilities"][0].astype(np.float32),
            dense_probabilities(local.network, prepared),
            atol=1e-3,
        )


def run_command(*arguments, code):
    found, stdout, stderr = forked_as_users_do().start(["predict", *arguments]).finish()
    assert found == code, stderr
    assert "Traceback" not in stderr
    return SimpleNamespace(stdout=stdout, stderr=stderr)


def test_the_command_writes_what_it_writes_locally(front, folder, scans, tmp_path):
    run_command(
        *scans[:2], "--server", front.address(), "--precision", "float32", "-o",
        tmp_path / "there", code=0,
    )  # fmt: skip
    model = folder / "mtseg"
    run_command(
        *scans[:2], "--model", model, "--precision", "float32", "-o", tmp_path / "here", code=0
    )
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "there").iterdir())
    for name in (VOLUMES, *LABEL_TABLES):
        assert (tmp_path / "here" / name).read_text() == (tmp_path / "there" / name).read_text()
    for name in (name for name in names if name.endswith(".gz")):
        np.testing.assert_array_equal(
            read(tmp_path / "here" / name), read(tmp_path / "there" / name)
        )


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_serving", "keras", "jax", "absl", "openvino", "h5py"):
    sys.modules[name] = None
from mtseg.cli.predict import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("scheme", ["grpc", pytest.param("http", marks=pytest.mark.thorough)])
def test_the_client_needs_no_tensorflow(front, local, scans, scheme, tmp_path):
    (expected,) = segment(local, scans[2:3], tmp_path / "here")
    command = [
        sys.executable, "-c", WITHOUT_TENSORFLOW, scans[2], "--server", front.address(scheme),
        "-o", tmp_path / "there",
    ]  # fmt: skip
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(read(tmp_path / "there" / "cta_labels.nii.gz"), expected)
    there, here = (
        json.loads((tmp_path / folder / "cta_verdict.json").read_text())
        for folder in ("there", "here")
    )
    assert there["volumes_ml"] == here["volumes_ml"]
    assert there["engine"] == "server"


def refusal(front, scan, out, path="mtseg", scheme="grpc", **changes):
    """The line that ends the work, with nothing written."""

    def attempt():
        model = mtseg.load(front.address(scheme, path), options=options(scheme, **changes))
        ((_, outcome),) = segment_files(model, [scan], out)
        raise outcome

    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        attempt()
    assert time.monotonic() - started < 90  # it does not hang
    assert "\n" not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())
    return str(caught.value)


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_absent_server(front, scans, tmp_path, scheme):
    absent = dataclasses.replace(front, grpc_port=9, rest_port=9)
    text = refusal(absent, scans[0], tmp_path / "out", scheme=scheme)
    assert "no answer in 2 attempts" in text
    assert "127.0.0.1:9" in text


@pytest.mark.promise("servers may fail")
def test_an_absent_server_ends_the_command_with_code_2(front, scans, tmp_path):
    absent = dataclasses.replace(front, grpc_port=9)
    result = run_command(
        scans[0], "--server", absent.address(), "--retries", 0, "-o", tmp_path / "out", code=2
    )
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Is the server running" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nobody", "the server has no such model"),
        ("mtseg/7", "the server has no such model"),
        ("other", "Serve a model that mtseg-export of this version wrote"),
    ],
)
def test_a_wrong_model_a_missing_version_or_a_wrong_signature(
    front, scans, tmp_path, scheme, path, expected
):
    assert expected in refusal(front, scans[0], tmp_path / "out", path, scheme)


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("hang", "no answer within 3 s"),
        ("values", "its answer is not the probabilities of"),
        ("shape", "its answer is not the probabilities of"),
    ],
)
def test_a_server_that_answers_not_or_wrongly(
    misbehaving, scans, tmp_path, scheme, fault, expected
):
    seconds = 3.0 if fault == "hang" else 60.0
    with misbehaving.fault(fault):
        text = refusal(
            misbehaving, scans[0], tmp_path / "out", scheme=scheme, deadline_seconds=seconds
        )
    assert expected in text
    assert re.search(r"0 of \d+ tiles were done", text)


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_answer_that_is_none(misbehaving, scans, tmp_path, scheme):
    with misbehaving.fault("bytes"):
        text = refusal(misbehaving, scans[0], tmp_path / "out", scheme=scheme)
    assert "has no arrays" in text or "is not JSON" in text


@pytest.mark.promise("servers may fail")
def test_a_message_that_is_too_small_for_any_part_of_a_scan(front, scans, tmp_path):
    text = refusal(front, scans[0], tmp_path / "out", message_bytes=300_000)
    assert "larger --message-mb" in text
    assert scans[0].name in text


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_takes_smaller_messages(folder, scans, tmp_path, scheme):
    with start_front(folder, tmp_path / "fault", "--most-mb", "0.5") as front:
        text = refusal(front, scans[0], tmp_path / "out", scheme=scheme)
    assert "Give a smaller --message-mb" in text


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("fault", ["busy:2", "exhausted:2"])
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_what_is_temporary_is_tried_again(misbehaving, local, scans, tmp_path, scheme, fault):
    (expected,) = segment(local, scans[:1], tmp_path / "here")
    with misbehaving.fault(fault):
        model = mtseg.load(misbehaving.address(scheme), options=options(scheme, retries=3))
        (labels,) = segment(model, scans[:1], tmp_path / "there")
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.promise("servers may fail")
def test_killed_amid_a_volume(folder, scans, tmp_path):
    fault_file = tmp_path / "fault"
    with start_front(folder, fault_file) as front:
        fault_file.write_text("die-after:2")
        text = refusal(front, scans[0], tmp_path / "out", in_flight=1)
    assert re.search(r"no answer in 2 attempts .* 2 of \d+ tiles were done", text)


@pytest.mark.promise("servers may fail")
def test_scans_before_the_servers_end_are_kept_and_the_others_are_not_tried(
    folder, local, scans, tmp_path
):
    fault_file, counts = tmp_path / "fault", []
    # At a voxel size that is given, the server is asked for nothing but the tiles that are planned.
    given = Options(spacing_mm=1.2)
    list(segment_files(local, scans[:1], tmp_path / "here", given))
    with start_front(folder, fault_file) as front:
        model = mtseg.load(front.address(), options=options(in_flight=1))
        done = []

        def start(path, work):
            counts.append(len(work.plan.tiles))
            if len(counts) == 1:
                fault_file.write_text(f"die-after:{counts[0] + 1}")

        def work():
            for path, outcome in segment_files(
                model, scans, tmp_path / "there", given, on_start=start
            ):
                done.append((path, read(outcome.label_path)))

        with pytest.raises(ServerError, match="1 of"):
            work()
    assert len(counts) == 2
    ((path, labels),) = done
    assert path == scans[0]
    np.testing.assert_array_equal(labels, read(tmp_path / "here" / "brain_labels.nii.gz"))
    names = {name.split("_")[0] for name in os.listdir(tmp_path / "there")}
    assert names == {"brain"}


def test_every_request_passes_the_queue_of_its_signature(misbehaving, scans, tmp_path):
    """Or the server would neither limit how many it computes at once, nor how many wait."""
    log = misbehaving.process.stderr_path
    for scheme in ("grpc", "http"):
        before = log.read_text().count("Bypassing batcher")
        model = mtseg.load(misbehaving.address(scheme), options=options(scheme))
        segment(model, scans[3:], tmp_path / scheme, options=Options(spacing_mm=1.5))
        assert log.read_text().count("Bypassing batcher") == before
    # What the client of an earlier version asked for is noticed.
    tile = {"tile": np.ones((1, 52, 52, 52), np.float32)}
    tile |= {"intensity_scale": np.ones(1, np.float32), "chunk_positions": np.zeros(1, np.int32)}
    connection = connect(parse_address(misbehaving.address()), ServerOptions())
    connection.predict("segment_tile", tile, ("probabilities",))
    assert log.read_text().count("Bypassing batcher") == before + 1
    connection.close()


@pytest.mark.promise("servers may fail")
def test_fifty_clients_and_a_short_queue(folder, local, scans, tmp_path):
    """Each is answered or refused by name; the server never computes more than it may."""
    given = {"options": Options(spacing_mm=1.5)}  # nothing to recognise
    expected = segment(local, scans, tmp_path / "here", **given)
    short = tmp_path / "served"
    short.mkdir()
    (short / "mtseg").symlink_to(folder / "mtseg")
    text = (folder / "batching.config").read_text()
    assert "max_enqueued_batches { value: 64 }" in text
    (short / "batching.config").write_text(text.replace("value: 64", "value: 4"))
    answered, refused = [], []

    def client(number):
        which = number % len(scans)
        try:
            model = mtseg.load(front.address(), options=ServerOptions(retries=number // 25))
            ((_, outcome),) = segment_files(model, [scans[which]], tmp_path / str(number), **given)
        except ServerError as error:
            refused.append(str(error))
            return
        assert not isinstance(outcome, InputError), outcome
        np.testing.assert_array_equal(read(outcome.label_path), expected[which])
        answered.append(number)

    with start_front(short, tmp_path / "fault") as front:
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(client, range(50)))
        log = front.process.stderr_path.read_text()
    assert len(answered) + len(refused) == 50
    assert answered
    assert refused
    assert all("queue to which this task was submitted is full" in text for text in refused)
    assert "2 computed at once" in log
    assert "3 computed at once" not in log


def test_twenty_clients_at_once(front, local, scans, tmp_path):
    given = {"options": Options(spacing_mm=1.5)}  # nothing to recognise
    expected = segment(local, scans, tmp_path / "here", **given)

    def client(number):
        model = mtseg.load(front.address(), options=ServerOptions(message_bytes=10_000_000))
        which = number % len(scans)
        (labels,) = segment(model, [scans[which]], tmp_path / str(number), **given)
        np.testing.assert_array_equal(labels, expected[which])

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(client, range(20)))


@pytest.mark.promise("bounded memory")
def test_a_large_volume_in_small_messages_and_little_memory(folder, local, tmp_path):
    """512 × 512 × 320 voxels, with a limit of 64 MB on both sides and 2 GB for the client."""
    rng = np.random.default_rng(0)
    scan = np.zeros((512, 512, 320), np.int16)
    # A column and a cube far apart: a large box around little that has to be computed.
    scan[100:108, 200:208, 10:310] = rng.integers(50, 900, (8, 8, 300))
    scan[412:420, 50:58, 112:120] = rng.integers(50, 900, (8, 8, 8))
    scan[0, 0, 0] = scan[-1, -1, -1] = 100
    path = save(tmp_path / "scan.nii.gz", scan, np.diag([0.5, 0.5, 0.5, 1]))
    # `ru_maxrss` would be at least that of the tests' process, which a child inherits.
    script = """
import pathlib, re, sys
from mtseg.cli.predict import main
code = main()
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""
    command = [sys.executable, "-c", script, path, "--precision", "float32", "--spacing-mm", 0.5]
    with start_front(folder, tmp_path / "fault", "--most-mb", "64") as front:
        run = subprocess.run(
            [*map(str, command), "--server", front.address(), "--message-mb", "64",
             "-o", str(tmp_path / "there")],
            capture_output=True, text=True,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert re.search(r" [2-9] tiles", run.stdout)
    assert 1024 * int(run.stdout.split()[-1]) < 2e9
    (here,) = segment(local, [path], tmp_path / "here", options=Options(spacing_mm=0.5))
    there = read(tmp_path / "there" / "scan_labels.nii.gz")
    assert here.any()
    np.testing.assert_array_equal(there, here)


@pytest.mark.promise("loopback only")
def test_a_token_is_wanted_and_given(misbehaving, scans, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text("open-sesame\n")
    flags = [scans[0], "--server", misbehaving.address(), "-o", tmp_path / "out"]
    with misbehaving.fault("denied"):
        result = run_command(*flags, code=2)
        assert "access denied" in result.stderr
        result = run_command(*flags, "--token-file", token_file, code=0)
    assert "sesame" not in result.stdout + result.stderr


@pytest.mark.promise("loopback only")
def test_a_token_does_not_travel_unencrypted():
    with pytest.raises(InputError, match="would be sent unencrypted") as caught:
        mtseg.load("grpc://scans.example:8500", options=ServerOptions(token="open-sesame"))
    assert "sesame" not in str(caught.value)


def make_certificate(folder):
    """A key and a certificate for this machine, by the names of nginx.conf."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is missing")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


@pytest.mark.promise("loopback only")
def test_the_proxy_of_the_example_wants_the_token(front, serving_folder, local, scans, tmp_path):
    """nginx itself, with the file as it is written but for its ports."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is missing")
    _, certificate = make_certificate(tmp_path)
    ports = {}
    with socket.socket() as one, socket.socket() as two:
        for name, free in (("8443", one), ("8444", two)):
            free.bind(("127.0.0.1", 0))
            ports[name] = free.getsockname()[1]
    text = (serving_folder / "nginx.conf").read_text()
    (command,) = re.findall(r"#     (printf .*)", text)
    replaced = ports | {"8500": front.grpc_port, "8501": front.rest_port}
    for port, other in replaced.items():
        assert port in text
        text = text.replace(f"listen {port}", f"listen 127.0.0.1:{other}")
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{other}")
    (tmp_path / "nginx.conf").write_text(text)
    subprocess.run(["bash", "-c", f"TOKEN=open-sesame; {command}"], cwd=tmp_path, check=True)
    (expected,) = segment(local, scans[2:3], tmp_path / "here")
    proxy = subprocess.Popen(["nginx", "-c", tmp_path / "nginx.conf", "-p", tmp_path])
    try:
        for scheme, port in (("grpcs", ports["8443"]), ("https", ports["8444"])):
            address = f"{scheme}://127.0.0.1:{port}/mtseg"
            trusting = ServerOptions(ca_path=certificate, token="open-sesame")
            model = mtseg.load(address, options=trusting)
            (labels,) = segment(model, scans[2:3], tmp_path / scheme)
            np.testing.assert_array_equal(labels, expected)
            for token in (None, "open-barley"):
                with pytest.raises(ServerError, match="access denied"):
                    mtseg.load(address, options=dataclasses.replace(trusting, token=token))
    finally:
        proxy.terminate()
        proxy.wait()


@pytest.mark.promise("loopback only")
def test_an_encrypted_connection(folder, local, scans, tmp_path):
    key, certificate = make_certificate(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    with start_front(folder, tmp_path / "fault", "--certificate", str(both)) as front:
        trusting = options(ca_path=certificate, token="open-sesame")
        model = mtseg.load(front.address("grpcs"), options=trusting)
        (labels,) = segment(model, scans[:1], tmp_path / "there")
        with pytest.raises(InputError, match="no answer in 2 attempts"):
            mtseg.load(front.address("grpcs"), options=options())
    (expected,) = segment(local, scans[:1], tmp_path / "here")
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.promise("servers may fail")
def test_new_versions_come_while_a_client_loops(serving_folder, local, scans, tmp_path):
    folder = tmp_path / "served"
    shutil.copytree(serving_folder / "mtseg", folder / "mtseg")
    (expected,) = segment(local, scans[:1], tmp_path / "here")
    is_over, seen, problems = threading.Event(), [], []
    with start_front(folder, tmp_path / "fault") as front:
        model = mtseg.load(front.address(), options=options())

        def client():
            try:
                while not is_over.is_set():
                    (labels,) = segment(model, scans[:1], tmp_path / "out")
                    np.testing.assert_array_equal(labels, expected)
                    seen.append(len(versions(folder / "mtseg")))
            except Exception as error:
                problems.append(error)

        thread = threading.Thread(target=client)
        thread.start()
        for number in (2, 3, 4):
            aside = folder / "mtseg" / ".writing"
            shutil.copytree(folder / "mtseg" / str(number - 1), aside)
            aside.rename(folder / "mtseg" / str(number))
            prune(folder / "mtseg", 2)
            before = len(seen)
            while len(seen) < before + 2 and not problems:
                time.sleep(0.1)
        is_over.set()
        thread.join()
        assert problems == []
        # The caller's model knows the newest one, and both share a connection.
        assert model.path.endswith("/mtseg/1")
        assert re.search(r"/mtseg/[34]$", model.renewal.newest.path)
        assert model.renewal.newest.network.connection is model.network.connection
        # By now the version that the client began with is long gone.
        with pytest.raises(ModelGoneError):
            mtseg.load(front.address(path="mtseg/1"), options=options())


def test_the_health_check_of_the_container(front, serving_folder):
    lines = (serving_folder / "compose.yaml").read_text().split("- >-")[1].splitlines()[1:4]
    check = " ".join(line.strip() for line in lines)
    assert "interval" not in check
    here = check.replace("/8501", f"/{front.rest_port}")
    assert subprocess.run(["bash", "-c", here], check=False).returncode == 0
    there = check.replace("/8501", "/9")
    assert subprocess.run(["bash", "-c", there], check=False, capture_output=True).returncode != 0
