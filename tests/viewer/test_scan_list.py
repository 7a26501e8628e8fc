"""The queue of a page: one scan at a time, cancelling, removing, references."""

import io
import threading
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import BasicTextSRStorage

from mtseg.errors import InputError
from mtseg.viewer.scan import CANCELLED, COMPUTING, DONE, FAILED, WAITING
from mtseg.viewer.uploads.upload import Upload
from tests.dicom_files import write_series
from tests.viewer.conftest import write_ball
from tests.viewer.threshold_computer import wait_until


def states(scans):
    return [scan["state"] for scan in scans.to_json()["scans"]]


def send(scans, *paths, name="drop"):
    number = scans.begin_upload(name)
    for path in paths:
        content = path.read_bytes()
        scans.upload(number).receive(path.name, io.BytesIO(content), len(content))
    return number


def test_nothing_is_left_of_an_upload_that_is_unpacked_when_the_page_ends(
    scans, tmp_path, monkeypatch
):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in range(15):
            archive.writestr(f"{name}.dcm", bytes(100))
    number = send(scans, path)
    begun, may_go_on = threading.Event(), threading.Event()
    copy = Upload._copy_counted

    def copy_slowly(*arguments):
        begun.set()
        assert may_go_on.wait(20)
        copy(*arguments)

    monkeypatch.setattr(Upload, "_copy_counted", copy_slowly)
    refusals = []

    def finish():
        with pytest.raises(InputError, match="was removed"):
            scans.finish_upload(number)
        refusals.append(number)

    finishing = threading.Thread(target=finish)
    finishing.start()
    assert begun.wait(20)
    threading.Timer(0.2, may_go_on.set).start()
    scans.close()
    assert not [file for file in (tmp_path / "private").rglob("*") if file.is_file()]
    with pytest.raises(InputError, match="is being closed"):
        scans.begin_upload("another")
    finishing.join(20)
    assert refusals == [number]


def test_one_scan_is_computed_at_a_time_in_the_order_they_came(scans, computer, tmp_path):
    computer.may_go_on.clear()
    paths = [write_ball(tmp_path / f"{name}.nii") for name in "abc"]
    scans.add(paths)
    wait_until(lambda: states(scans) == [COMPUTING, WAITING, WAITING])
    first, second, third = scans.to_json()["scans"]
    assert [first["place"], second["place"], third["place"]] == [None, 1, 2]
    assert 0.5 <= first["progress"] < 0.51
    assert first["seconds_left"] > 100
    computer.may_go_on.set()
    wait_until(lambda: states(scans) == [DONE] * 3)
    assert [order["scan"] for order in computer.orders] == ["a.nii", "b.nii", "c.nii"]


def test_the_progress_within_a_tile_follows_the_clock_and_never_ends(scans, computer, scan_file):
    computer.may_go_on.clear()
    (number,) = scans.add([scan_file])
    wait_until(lambda: states(scans) == [COMPUTING])
    scan = scans.scan(number)
    scan.follow({"event": "computing", "flop": 100, "flop_per_second": 1e9})
    wait_until(lambda: scan.to_json()["progress"] == pytest.approx(0.98))


def test_a_scan_in_work_is_cancelled_and_the_next_one_follows(scans, computer, tmp_path):
    computer.may_go_on.clear()
    numbers = scans.add([write_ball(tmp_path / f"{name}.nii") for name in "ab"])
    wait_until(lambda: states(scans) == [COMPUTING, WAITING])
    scans.cancel(numbers[0])
    wait_until(lambda: states(scans) == [CANCELLED, COMPUTING])
    computer.may_go_on.set()
    wait_until(lambda: states(scans) == [CANCELLED, DONE])
    scans.try_again(numbers[0])
    wait_until(lambda: states(scans) == [DONE, DONE])


def test_a_waiting_scan_is_taken_from_the_queue(scans, computer, tmp_path):
    computer.may_go_on.clear()
    numbers = scans.add([write_ball(tmp_path / f"{name}.nii") for name in "ab"])
    wait_until(lambda: states(scans) == [COMPUTING, WAITING])
    scans.cancel(numbers[1])
    computer.may_go_on.set()
    wait_until(lambda: states(scans) == [DONE, CANCELLED])
    assert len(computer.orders) == 1


def test_a_scan_that_fails_does_not_stop_the_others(scans, tmp_path):
    (tmp_path / "broken.nii").write_bytes(b"no scan")
    scans.add([tmp_path / "broken.nii", write_ball(tmp_path / "ball.nii")])
    wait_until(lambda: states(scans) == [FAILED, DONE])


def test_a_scan_that_is_removed_in_work_leaves_nothing(scans, computer, scan_file, tmp_path):
    computer.may_go_on.clear()
    (number,) = scans.add([scan_file])
    wait_until(lambda: states(scans) == [COMPUTING])
    scans.remove(number)
    wait_until(lambda: not list((tmp_path / "private").rglob("scan.nii")))
    assert scan_file.exists()  # the command named it, so it is the user's own
    assert scans.to_json()["scans"] == []


def test_a_folder_with_two_series_is_two_scans(scans, tmp_path):
    number = scans.begin_upload("study")
    for name in ("first", "second"):
        array = np.arange(4 * 5 * 3).reshape(4, 5, 3)
        write_series(tmp_path / name, array, np.eye(4))
        for path in (tmp_path / name).iterdir():
            content = path.read_bytes()
            place = f"study/{name}/{path.name}"
            scans.upload(number).receive(place, io.BytesIO(content), len(content))
    scans.finish_upload(number)
    assert [scan["name"] for scan in scans.to_json()["scans"]] == ["first", "second"]
    wait_until(lambda: states(scans) == [DONE, DONE])


def test_the_series_of_a_disc_that_are_in_one_folder_are_scans_of_their_own(scans, tmp_path):
    number = scans.begin_upload("disc")

    def receive(place, content):
        scans.upload(number).receive(place, io.BytesIO(content), len(content))

    for series in (2, 1):
        array = np.arange(4 * 5 * 3).reshape(4, 5, 3)
        for path in write_series(tmp_path / str(series), array, np.eye(4)).iterdir():
            header = pydicom.dcmread(path)
            header.SeriesNumber, header.SeriesDescription = series, "T1 <axial>"
            header.save_as(path)
            receive(f"disc/IMAGES/IM{series}{path.stem}", path.read_bytes())
    del header.Rows
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    header.save_as(path)
    receive("disc/IMAGES/REPORT", path.read_bytes())
    receive("disc/AUTORUN.INF", b"[autorun]")
    scans.finish_upload(number)
    names = [scan["name"] for scan in scans.to_json()["scans"]]
    assert names == ["1 CT T1 _axial_", "2 CT T1 _axial_"]
    wait_until(lambda: states(scans) == [DONE, DONE])


def test_a_reference_is_compared_and_replaced(scans, scan_file, tmp_path):
    (number,) = scans.add([scan_file])
    with pytest.raises(InputError, match="has no labels"):
        scans.compare(number, send(scans, scan_file))
    wait_until(lambda: states(scans) == [DONE])
    labels = next((tmp_path / "private").rglob("*_labels.nii.gz"))
    for _ in range(2):
        scans.compare(number, send(scans, labels))
        wait_until(lambda: scans.scan(number).reference is not None)
    reference = scans.scan(number).reference
    assert reference["name"] == "ball_labels.nii.gz"
    assert reference["dice"]["labels"] == {
        "white_matter": None, "cortical_grey_matter": 1.0, "cerebellum": 1.0
    }  # fmt: skip
    scans.remove(number)
    assert not [path for path in (tmp_path / "private").rglob("*") if path.is_file()]


def test_a_reference_that_the_command_names_is_compared_when_the_labels_are_there(
    scans, scan_file, tmp_path
):
    image = nib.load(scan_file)
    ball = np.where(image.get_fdata() == 900, 5, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(ball, image.affine), tmp_path / "manual.nii.gz")
    (number,) = scans.add([scan_file], reference=tmp_path / "manual.nii.gz")
    wait_until(lambda: scans.scan(number).reference is not None)
    assert scans.scan(number).reference["dice"]["labels"]["cerebellum"] == 1.0
    scans.remove(number)
    assert (tmp_path / "manual.nii.gz").exists()


def test_labels_before_and_after_post_processing_are_both_kept_and_compared(
    scans, computer, scan_file
):
    computer.has_postprocessing = True
    (number,) = scans.add([scan_file])
    wait_until(lambda: states(scans) == [DONE])
    after, before = scans.scan(number).result["label_maps"]
    assert (after["key"], before["key"]) == ("labels", "unprocessed")
    assert after["classes"]["cortical_grey_matter"]["num_voxels"] == 0
    assert before["classes"]["cortical_grey_matter"]["num_voxels"] > 0
    for name in ("unprocessed.nii", "ball_labels_unprocessed.nii.gz", "ball_labels.nii.gz"):
        assert scans.scan(number).file(name) is not None
    assert scans.scan(number).file("other.nii") is None
    scans.compare(number, send(scans, scans.scan(number).file("ball_labels_unprocessed.nii.gz")))
    wait_until(lambda: scans.scan(number).reference is not None)
    dice = scans.scan(number).reference["dice"]
    assert dice["labels"]["cortical_grey_matter"] == 0
    assert dice["unprocessed"]["cortical_grey_matter"] == 1


def test_a_reference_that_is_no_label_map_is_said_and_the_labels_stay(scans, scan_file, tmp_path):
    (number,) = scans.add([scan_file])
    wait_until(lambda: states(scans) == [DONE])
    scans.compare(number, send(scans, scan_file))
    wait_until(lambda: scans.scan(number).reference_message)
    assert "have no known meaning" in scans.scan(number).reference_message
    assert states(scans) == [DONE]


def test_a_model_that_cannot_be_loaded_is_reported(tmp_path, computer):
    from mtseg.viewer.scan_list import ScanList

    def refuse(on_event):
        raise InputError("no model")

    computer.begin = refuse
    refusals = []
    scans = ScanList(computer, tmp_path, {}, on_refusal=refusals.append)
    scans.start()
    wait_until(lambda: refusals)
    scans.close()
    assert str(refusals[0]) == "no model"
