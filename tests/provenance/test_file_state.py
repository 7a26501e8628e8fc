"""The state of a scan: all of its files count."""

from mtseg.provenance.file_state import file_state


def test_voxels_beside_their_header_are_part_of_a_scan(tmp_path):
    header, voxels = tmp_path / "scan.mhd", tmp_path / "scan.raw"
    header.write_text("NDims = 3\nElementDataFile = scan.raw\n")
    voxels.write_bytes(b"12345")
    before = file_state(str(header)).with_checksum()
    assert file_state(str(header)).looks_like(before)
    voxels.write_bytes(b"54321")
    now = file_state(str(header))
    assert not now.looks_like(before)
    assert now.with_checksum().sha256 != before.sha256


def test_a_file_with_its_voxels_has_the_checksum_of_its_content(tmp_path):
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"12345")
    state = file_state(str(scan)).with_checksum()
    assert state.listing == ""
    # printf 12345 | sha256sum
    assert state.sha256 == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
