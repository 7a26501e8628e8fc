"""Who may send, and where segmentations go."""

import pytest

from mtseg.errors import InputError
from mtseg.gateway.peers import Destination, parse_caller, parse_destination


def test_a_caller_is_known_by_its_title_and_if_given_by_its_host():
    anywhere, here = parse_caller("CT SCANNER"), parse_caller("CT SCANNER@127.0.0.1")
    assert anywhere.is_calling("CT SCANNER ", "192.0.2.7")
    assert not anywhere.is_calling("ct scanner", "192.0.2.7")
    assert here.is_calling("CT SCANNER", "127.0.0.1")
    assert here.is_calling("CT SCANNER", "::ffff:127.0.0.1")
    assert not here.is_calling("CT SCANNER", "192.0.2.7")
    assert not here.is_calling("CT", "127.0.0.1")


def test_a_destination_has_three_parts():
    assert parse_destination("PACS@archive.local:104") == Destination("PACS", "archive.local", 104)
    assert parse_destination("PACS@[::1]:104") == Destination("PACS", "::1", 104)
    assert str(Destination("PACS", "::1", 104)) == "PACS@[::1]:104"


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "PACS@host:0", "@host:104", "A\\B@host:104"])
@pytest.mark.promise("refused input")
def test_other_destinations_are_refused(text):
    with pytest.raises(InputError, match="--send-to: "):
        parse_destination(text)


@pytest.mark.parametrize("text", ["", " ", "SEVENTEEN LETTERS", "ÄRZTE", "A\\B", "A\nB", "A@"])
@pytest.mark.promise("refused input")
def test_other_callers_are_refused(text):
    with pytest.raises(InputError, match="--allow: "):
        parse_caller(text)
