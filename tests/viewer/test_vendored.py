"""The copy of NiiVue: the file that VERSION.txt says, with the licences of all that is in it."""

import hashlib
import re
from pathlib import Path

import mtseg.viewer

FOLDER = Path(mtseg.viewer.__file__).parent / "page" / "niivue"


def test_the_file_is_the_one_that_was_released():
    said = re.search(r"sha256 +(\w+)", (FOLDER / "VERSION.txt").read_text())[1]
    assert hashlib.sha256((FOLDER / "niivue.umd.js").read_bytes()).hexdigest() == said


def test_the_licences_are_beside_it():
    text = (FOLDER / "LICENSE.txt").read_text()
    for name in ("NiiVue", "fflate", "gl-matrix", "nifti-reader-js", "zarrita", "numcodecs"):
        assert f"=== {name}" in text


def test_the_page_names_no_address_of_another_server():
    for path in FOLDER.parent.iterdir():
        if path.is_file():
            assert not re.findall(r"""(?:https?:)?//[a-z0-9-]+\.[a-z]""", path.read_text()), path
