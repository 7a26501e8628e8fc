"""Addresses that are understood, and those that are not."""

import pytest

from mtseg.errors import InputError
from mtseg.serving.address import Address, ServerOptions, is_address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("grpc://localhost", Address("grpc", "localhost", 8500, "mtseg", None)),
        ("grpcs://host:9/heart", Address("grpcs", "host", 9, "heart", None)),
        ("http://127.0.0.1:8501/mtseg/3", Address("http", "127.0.0.1", 8501, "mtseg", 3)),
        ("https://[::1]/m", Address("https", "::1", 8501, "m", None)),
    ],
)
def test_an_address_is_read_and_written(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host",
        "grpc://",
        "grpc://host:70000",
        "grpc://host:x",
        "grpc://host/m/latest",
        "grpc://host/m/1/2",
        "http://host/m?x=1",
        "http://user:secret@host/m",
        "://host",
        "grpc://[::1",
        "http://a..b",
        "http://" + "a" * 64,
        "grpc://host:0",
        "grpc://host/m/" + "9" * 20,
        "grpc://host/m/\u0663",
        "http://host/m\udcff",
    ],
)
def test_what_is_no_address_is_one_clear_line(text):
    with pytest.raises(InputError, match="grpc://HOST:PORT") as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


def test_folders_are_no_addresses():
    assert is_address("grpc://host")
    assert not is_address("models/mtseg")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("localhost", True), ("127.0.0.5", True), ("::1", True), ("10.0.0.1", False), ("a.b", False)],
)
def test_which_hosts_are_this_machine(host, is_loopback):
    assert Address("grpc", host, 1).is_loopback == is_loopback


def test_a_token_is_not_shown():
    assert "sesame" not in repr(ServerOptions(token="open-sesame"))
