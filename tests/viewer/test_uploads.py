"""Uploads: hostile names and zip files stay in their folder and within their limits."""

import io
import stat
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.viewer.uploads.upload import Limits, Upload, safe_name
from tests.dicom_files import change, write_disc, write_series

LIMITS = Limits(num_bytes=1_000_000, num_files=20)

HOSTILE_NAMES = [
    "../../etc/passwd", "/etc/passwd", "..\\..\\windows\\system32", "..", ".", "", "a/../../b",
    "scan\n\x1b[31m.nii", "<script>alert(1)</script>.nii", "x" * 5000 + ".nii.gz", "-rf.nii",
    "\u202egz.iin.nacs", "\ud800.nii", "con:aux|*?.nii", "a\x00b.nii", "/".join(["d"] * 500),
]  # fmt: skip


def make_upload(tmp_path, name="drop", limits=LIMITS):
    return Upload(tmp_path / "uploads" / "1", name, limits)


def files(upload):
    return {str(path.relative_to(upload.folder)) for path in upload.folder.rglob("*.*")}


def send(upload, name, content=b"scan"):
    upload.receive(name, io.BytesIO(content), len(content))


def write_zip(members, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_stays_in_the_folder(tmp_path, name):
    upload = make_upload(tmp_path, name)
    send(upload, name)
    send(upload, name)  # the same name again replaces nothing
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(found) == 2
    assert all(path.is_relative_to(upload.folder) for path in found)
    assert all(len(path.name) < 200 and path.name.isprintable() for path in found)


def test_names_that_a_person_gives_are_kept():
    assert safe_name("Müller 2024-05 (T1).nii.gz") == "Müller 2024-05 (T1).nii.gz"
    assert safe_name("頭部.nii") == "頭部.nii"
    assert safe_name(("x" * 300) + ".nii.gz").endswith("x.nii.gz")
    assert safe_name("ü" * 300) == "ü" * 60
    # Cut there, it would be hidden, and not be found.
    assert safe_name("a" * 300 + "." + "b" * 112 + ".nii.gz") == "_" + "b" * 112 + ".nii.gz"


def test_loose_dicom_files_share_a_folder_of_their_own(tmp_path):
    upload = make_upload(tmp_path, "DICOM files")
    send(upload, "IM0001.dcm")
    send(upload, "IM0002.dcm")
    assert files(upload) == {"DICOM files/IM0001.dcm", "DICOM files/IM0002.dcm"}


def test_too_many_bytes_are_refused_before_they_are_read(tmp_path):
    class Endless:
        def read(self, size):
            raise AssertionError("was read")

    upload = make_upload(tmp_path)
    with pytest.raises(InputError, match=r"larger than 0\.001 GB"):
        upload.receive("scan.nii", Endless(), 1_000_001)
    assert not files(upload)


def test_too_many_files_are_refused(tmp_path):
    upload = make_upload(tmp_path)
    for number in range(20):
        send(upload, f"{number}.dcm")
    with pytest.raises(InputError, match="more than 20 files"):
        send(upload, "20.dcm")


def test_a_transfer_that_breaks_off_leaves_nothing(tmp_path):
    upload = make_upload(tmp_path)
    with pytest.raises(InputError, match="interrupted"):
        upload.receive("scan.nii", io.BytesIO(b"half"), 8)
    assert not files(upload)


def test_a_zip_is_unpacked_in_its_place(tmp_path):
    upload = make_upload(tmp_path)
    send(upload, "study.zip", write_zip([("series/1.dcm", b"a"), ("series/2.dcm", b"b")]))
    upload.unpack()
    assert files(upload) == {"study/series/1.dcm", "study/series/2.dcm"}


def test_zips_of_one_name_in_two_folders_stay_apart(tmp_path):
    upload = make_upload(tmp_path)
    for subject in ("s1", "s2"):
        send(upload, f"{subject}/images.zip", write_zip([("scan.nii", subject.encode())]))
    upload.unpack()
    assert files(upload) == {"s1/images/scan.nii", "s2/images/scan.nii"}
    assert (upload.folder / "s2" / "images" / "scan.nii").read_bytes() == b"s2"


def test_a_zip_cannot_write_outside_of_its_folder(tmp_path):
    upload = make_upload(tmp_path)
    names = ["../../../escaped.nii", "/tmp/escaped.nii", "..\\escaped.nii", "a/../../escaped.nii"]
    send(upload, "hostile.zip", write_zip([(name, b"x") for name in names]))
    upload.unpack()
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(found) == 4
    assert all(path.is_relative_to(upload.folder / "hostile") for path in found)


def test_a_zip_makes_no_links_and_no_files_of_file_managers(tmp_path):
    link = zipfile.ZipInfo("link.nii")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    members = [(link, b"/etc/passwd"), ("__MACOSX/._scan.nii", b"x"), (".DS_Store", b"x")]
    upload = make_upload(tmp_path)
    send(upload, "links.zip", write_zip([*members, ("scan.nii", b"scan")]))
    upload.unpack()
    assert files(upload) == {"links/scan.nii"}


@pytest.mark.promise("refused input")
def test_a_zip_bomb_is_stopped_at_the_limit(tmp_path):
    upload = make_upload(tmp_path)
    packed = write_zip([("scan.nii", bytes(50_000_000))])
    assert len(packed) < 100_000
    send(upload, "bomb.zip", packed)
    with pytest.raises(InputError, match=r"larger than 0\.001 GB, unpacked"):
        upload.unpack()
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written < 2_000_000


@pytest.mark.promise("refused input")
def test_a_zip_that_lies_of_its_size_is_stopped_too(tmp_path):
    packed = bytearray(write_zip([("scan.nii", bytes(5_000_000))]))
    entry = packed.rfind(b"PK\x01\x02")
    struct.pack_into("<I", packed, entry + 24, 10)  # says that it is 10 bytes, unpacked
    upload = make_upload(tmp_path)
    send(upload, "bomb.zip", bytes(packed))
    with pytest.raises(InputError, match="bomb"):
        upload.unpack()


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("place", ["plain", "signature in the end", "zip64"])
def test_a_table_of_contents_that_would_fill_the_memory_is_not_read(tmp_path, place):
    """Wherever the library may find it, and whatever else stands there."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(3000):
            archive.writestr(f"{number}.dcm", b"")
    packed = bytearray(file.getvalue())
    at = packed.rfind(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", packed, at + 12)
    if place == "signature in the end":  # the offset of the table, which the library corrects
        packed[at + 16 : at + 20] = b"PK\x05\x06"
    elif place == "zip64":
        wide = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 3000, 3000, size, start)
        end = bytearray(packed[at:])
        struct.pack_into("<HHII", end, 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        packed = packed[:at] + wide + struct.pack("<IIQI", 0x07064B50, 0, at, 1) + end
    upload = make_upload(tmp_path)
    send(upload, "many.zip", bytes(packed))
    with pytest.raises(InputError, match=r"many\.zip: has more than 20 files"):
        upload.unpack()


@pytest.mark.promise("refused input")
def test_a_table_of_contents_that_lies_of_its_size_is_refused(tmp_path):
    packed = bytearray(write_zip([("1.dcm", b"")]))
    struct.pack_into("<I", packed, packed.rfind(b"PK\x05\x06") + 12, 1 << 30)
    upload = make_upload(tmp_path)
    send(upload, "many.zip", bytes(packed))
    with pytest.raises(InputError, match=r"many\.zip: "):
        upload.unpack()


@pytest.mark.promise("refused input")
def test_a_zip_whose_places_are_beyond_numbers_is_one_line(tmp_path):
    member = zipfile.ZipInfo("scan.nii")
    packed = bytearray(write_zip([(member, b"scan")], zipfile.ZIP_STORED))
    entry = packed.rfind(b"PK\x01\x02")
    struct.pack_into("<I", packed, entry + 42, 0xFFFFFFFF)  # the true offset is in an extra field
    name_end = entry + 46 + len("scan.nii")
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    struct.pack_into("<H", packed, entry + 30, len(extra))
    packed[name_end:name_end] = extra
    end = packed.rfind(b"PK\x05\x06")
    struct.pack_into("<I", packed, end + 12, struct.unpack_from("<I", packed, end + 12)[0] + 12)
    upload = make_upload(tmp_path)
    send(upload, "far.zip", bytes(packed))
    with pytest.raises(InputError, match="damaged"):
        upload.unpack()


def test_many_files_of_one_name_are_all_kept_and_take_no_longer_each(tmp_path, monkeypatch):
    tried = []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: tried.append(path) or exists(path))
    upload = make_upload(tmp_path, limits=Limits(1_000_000, 500))
    names = [f"a/{chr(0x2500 + number)}.dcm" for number in range(300)]  # all become _.dcm
    send(upload, "same.zip", write_zip([(name, b"x") for name in names]))
    upload.unpack()
    assert len(list((upload.folder / "same" / "a").iterdir())) == 300
    assert len(tried) < 2_000


def test_files_of_one_name_that_arrive_at_once_are_all_kept(tmp_path):
    """A browser sends four files at a time."""
    upload = make_upload(tmp_path)
    arrived = threading.Barrier(4)

    class Slow:
        def __init__(self, letter):
            self.letter, self.is_sent = letter, False

        def read(self, size):
            arrived.wait(20)
            piece, self.is_sent = (b"" if self.is_sent else self.letter), True
            return piece

    threads = [
        threading.Thread(target=upload.receive, args=["a/scan?.dcm", Slow(letter), 1])
        for letter in (b"1", b"2", b"3", b"4")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(path.read_bytes() for path in (upload.folder / "a").iterdir())
    assert found == [b"1", b"2", b"3", b"4"]


@pytest.mark.promise("scarcity is one line")
def test_a_disk_that_is_full_while_a_zip_is_unpacked_is_said(tmp_path, monkeypatch):
    upload = make_upload(tmp_path)
    send(upload, "study.zip", write_zip([("scan.nii", b"scan")]))

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(upload, "_open_new", lambda name: (tmp_path / "x", Full()))
    with pytest.raises(InputError, match=r"No space left on device.*Make room"):
        upload.unpack()


@pytest.mark.promise("refused input")
def test_damaged_and_encrypted_zips_are_one_line(tmp_path):
    good = write_zip([("scan.nii", b"scan" * 1000)])
    flagged = bytearray(good)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        flagged[flagged.rfind(signature) + offset] |= 1
    swapped = bytearray(good)
    swapped[40:60] = bytes(20)
    for content, words in (
        (b"PK not a zip", "damaged"), (good[:-30], "damaged"), (bytes(swapped), "damaged"),
        (bytes(flagged), "encrypted"),
        (write_zip([("scan.nii", b"x" * 99)], zipfile.ZIP_LZMA), "another way than deflate"),
    ):  # fmt: skip
        upload = Upload(tmp_path / words / str(len(content)), "drop", LIMITS)
        send(upload, "study.zip", content)
        with pytest.raises(InputError, match=words) as refused:
            upload.unpack()
        assert "\n" not in str(refused.value)


def test_a_zip_in_a_zip_stays_packed(tmp_path):
    upload = make_upload(tmp_path)
    inner = write_zip([("scan.nii", b"scan")])
    send(upload, "outer.zip", write_zip([("inner.zip", inner), ("scan.nii", b"scan")]))
    upload.unpack()
    assert files(upload) == {"outer/inner.zip", "outer/scan.nii"}


@pytest.mark.parametrize("has_titles", [True, False])
def test_series_of_a_disc_are_called_as_the_console_calls_them(tmp_path, has_titles):
    """The folders of a disc are called SE000000 and so on, which says nothing to a person."""
    series = []
    for number, title in [(1, "scout"), (2, "T1 axial")]:
        folder = write_series(tmp_path / title, np.ones((3, 4, 2)), np.eye(4), modality="MR")
        for path in folder.iterdir():
            change(path, SeriesNumber=number, SeriesDescription=title)
        series.append(folder)
    disc = write_disc(tmp_path / "DISC", series)
    for path in disc.rglob("*"):
        if path.is_file() and path.name != "DICOMDIR" and not has_titles:
            change(path, SeriesNumber=None, SeriesDescription="", Modality="")
    upload = make_upload(tmp_path, "DISC", Limits())
    for path in sorted(path for path in disc.rglob("*") if path.is_file()):
        send(upload, str(path.relative_to(tmp_path)), path.read_bytes())
    found = upload.find_scans()
    wanted = ["1 MR scout", "2 MR T1 axial"] if has_titles else ["SE000000"] * 2
    assert [path.name for path in found] == wanted
    assert [len(list(path.iterdir())) for path in found] == [2, 2]


def test_a_folder_that_a_person_named_keeps_its_name(tmp_path):
    folder = write_series(tmp_path / "before surgery", np.ones((3, 4, 2)), np.eye(4))
    upload = make_upload(tmp_path, "study", Limits())
    for path in folder.iterdir():
        send(upload, f"study/before surgery/{path.name}", path.read_bytes())
    assert [path.name for path in upload.find_scans()] == ["before surgery"]
