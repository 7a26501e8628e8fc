"""The file of a fingerprint: what is written is read again, and damage is named."""

import json

import pytest

from mtseg.errors import InputError
from mtseg.provenance.fingerprint import FINGERPRINT, read_fingerprint
from tests.provenance.test_differences import BEFORE


def test_what_is_written_is_read_again(tmp_path):
    BEFORE.write(tmp_path)
    assert read_fingerprint(tmp_path) == BEFORE


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("content", ["", "{", "[3]", '{"format": 1}', "[" * 100_000])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / FINGERPRINT).write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path / FINGERPRINT}: cannot be read"):
        read_fingerprint(tmp_path)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("part", ["task", "source"])
def test_a_file_that_lacks_a_part_is_named(tmp_path, part):
    for key in getattr(BEFORE, part):
        stored = BEFORE.to_json()
        del stored[part][key]
        if key == "layout":  # nobody reads it
            continue
        (tmp_path / FINGERPRINT).write_text(json.dumps(stored))
        with pytest.raises(InputError, match=f"{tmp_path / FINGERPRINT}: cannot be read"):
            read_fingerprint(tmp_path)


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / FINGERPRINT).write_text('{"format": 99}')
    with pytest.raises(InputError, match="was written by a newer version of mtseg"):
        read_fingerprint(tmp_path)
