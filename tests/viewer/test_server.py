"""The server of the page: who may ask, what is sent, and what comes of a scan."""

import http.client
import json
import socket
import urllib.parse
import zipfile

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.viewer.web.server import Server
from tests.viewer.conftest import write_ball
from tests.viewer.threshold_computer import wait_until


def ask(server, method, path, body=None, token=None, **headers):
    """Status, headers and body of an answer; underscores in names of headers are dashes."""
    own = f"127.0.0.1:{server.server_port}"
    sent = {"Host": own, "Origin": f"http://{own}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(
        method, f"/{server.token if token is None else token}/{path}", skip_host=True
    )
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    if body is not None and "Transfer-Encoding" not in sent:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), content


def ask_json(server, method, path, body=None, status=200):
    found, _, content = ask(server, method, path, body)
    assert found == status, content
    return json.loads(content)


def upload(server, *paths, name=None):
    """Sends files as one drop; returns the number of the upload."""
    number = ask_json(server, "POST", "uploads", {"name": name or paths[0].name})["id"]
    for path in paths:
        ask_json(
            server,
            "PUT",
            f"uploads/{number}?name={urllib.parse.quote(path.name)}",
            path.read_bytes(),
        )
    return number


def segment(server, path):
    """Sends a scan and waits for its labels; returns its state."""
    (scan,) = ask_json(server, "POST", f"uploads/{upload(server, path)}", {})["scans"]
    wait_until(lambda: state_of(server, scan)["state"] in ("done", "failed"))
    return state_of(server, scan)


def state_of(server, number):
    (scan,) = [s for s in ask_json(server, "GET", "state")["scans"] if s["id"] == number]
    return scan


def test_it_listens_on_the_loopback_interface_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("token", ["", "x", "favicon.ico", "%00", "../etc"])
def test_nothing_is_had_without_the_token(server, token):
    for path in ("", "state", "page.js", "niivue.umd.js"):
        assert ask(server, "GET", path, token=token)[0] == 404
    assert ask(server, "POST", "uploads", {"name": "x"}, token=token)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", None, "x@127.0.0.1"])
def test_another_host_is_refused(server, host):
    """A page elsewhere whose name was made to point to this machine (DNS rebinding)."""
    assert ask(server, "GET", "state", Host=host)[0] == 403


def test_localhost_is_the_same_server(server):
    own = f"localhost:{server.server_port}"
    assert ask(server, "GET", "state", Host=own, Origin=f"http://{own}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", None])
def test_a_change_needs_the_origin_of_the_page(server, origin):
    for method, path in (("POST", "uploads"), ("PUT", "uploads/1?name=x"), ("DELETE", "scans/1")):
        assert ask(server, method, path, b"{}", Origin=origin)[0] == 403
    assert ask_json(server, "GET", "state")["scans"] == []


def test_another_page_cannot_read_either(server):
    assert ask(server, "GET", "state", Origin="http://evil.example")[0] == 403
    assert ask(server, "GET", "state", Origin=None, Sec_Fetch_Site="cross-site")[0] == 403


def test_the_browser_is_told_to_load_nothing_from_elsewhere(server):
    status, headers, content = ask(server, "GET", "", Origin=None)
    assert status == 200
    assert b"<title>mtseg</title>" in content
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "../server.py", "%2e%2e/server.py", "page/index.html", "niivue/LICENSE.txt", "scans/1/x",
        "scans/1/..%2f..%2fetc%2fpasswd", "scans/x/scan.nii", "scans/1/scan.nii?step=x",
        "uploads/1", "state/x", "//etc",
    ],
)  # fmt: skip
def test_other_paths_are_not_found(server, path):
    assert ask(server, "GET", path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "uploads", b"no json"), ("POST", "uploads", b"[]"), ("POST", "uploads", b"{}"),
        ("POST", "uploads/7", b"{}"), ("POST", "scans/7/cancel", b"{}"), ("DELETE", "scans/7", b""),
        ("POST", "scans/7/reference", b'{"upload": 9}'), ("PUT", "uploads/7?name=x", b"x"),
        ("PUT", "uploads", b"x"), ("POST", "uploads", b"[" * 9000),
    ],
)  # fmt: skip
def test_a_wrong_request_is_answered_as_one(server, method, path, body):
    status, _, content = ask(server, method, path, body)
    assert status == 404
    assert json.loads(content)["error"]


def test_a_body_of_unknown_or_great_length_is_refused(server):
    assert (
        ask(server, "PUT", "uploads/1?name=x", b"0\r\n\r\n", Transfer_Encoding="chunked")[0] == 411
    )
    assert ask(server, "POST", "uploads", b"x" * 20_000)[0] == 413
    number = ask_json(server, "POST", "uploads", {"name": "scan.nii"})["id"]
    status, headers, content = ask(
        server, "PUT", f"uploads/{number}?name=scan.nii", bytes(2_100_000)
    )
    assert status == 422
    assert "larger than" in json.loads(content)["error"]
    assert headers["Connection"] == "close"


def test_a_scan_becomes_labels_that_can_be_downloaded(server, scan_file, tmp_path):
    scan = segment(server, scan_file)
    assert scan["state"] == "done"
    assert scan["name"] == "ball.nii.gz"
    status, headers, content = ask(server, "GET", f"scans/{scan['id']}/ball_labels.nii.gz")
    assert status == 200
    assert headers["Content-Disposition"].endswith("ball_labels.nii.gz")
    (tmp_path / "got.nii.gz").write_bytes(content)
    image, labels = nib.load(scan_file), nib.load(tmp_path / "got.nii.gz")
    np.testing.assert_array_equal(labels.affine, image.affine)
    expected = np.select([image.get_fdata() == 900, image.get_fdata() == 600], [5, 1], 0)
    # 0.2, 0.55 and 0.8 of the brightest voxel: 600 is above 0.55 of 900, so the second class.
    np.testing.assert_array_equal(labels.get_fdata(), np.where(expected == 1, 2, expected))
    for copy in ("scan.nii", "labels.nii"):
        assert ask(server, "GET", f"scans/{scan['id']}/{copy}")[0] == 200
    (tmp_path / "all.zip").write_bytes(ask(server, "GET", f"scans/{scan['id']}/results.zip")[2])
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert sorted(archive.namelist()) == scan["result"]["files"]
        assert archive.read("ball_labels.nii.gz") == content


def test_a_file_that_is_no_scan_is_one_line_without_the_private_folder(server, tmp_path):
    for name, words in (("notes.txt", "has no scan"), ("broken.zip", "damaged")):
        (tmp_path / name).write_text("not a scan")
        number = upload(server, tmp_path / name)
        error = ask_json(server, "POST", f"uploads/{number}", {}, status=422)["error"]
        assert words in error
        assert str(tmp_path) not in error
    (tmp_path / "broken.nii").write_bytes(b"not a scan")
    scan = segment(server, tmp_path / "broken.nii")
    assert scan["state"] == "failed"
    assert scan["message"].startswith("broken.nii: ")


def test_an_upload_that_is_given_up_leaves_nothing(server, scan_file, tmp_path):
    number = upload(server, scan_file)
    ask_json(server, "DELETE", f"uploads/{number}")
    assert not [path for path in (tmp_path / "private").rglob("*") if path.is_file()]


def test_removing_a_scan_removes_its_files(server, scan_file, tmp_path):
    scan = segment(server, scan_file)
    ask_json(server, "DELETE", f"scans/{scan['id']}")
    assert not [path for path in (tmp_path / "private").rglob("*") if path.is_file()]
    assert ask_json(server, "GET", "state")["scans"] == []


def test_a_connection_that_breaks_off_in_a_file_leaves_nothing(server, tmp_path):
    number = ask_json(server, "POST", "uploads", {"name": "scan.nii"})["id"]
    own = f"127.0.0.1:{server.server_port}"
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        head = (
            f"PUT /{server.token}/uploads/{number}?name=scan.nii HTTP/1.1\r\nHost: {own}\r\n"
            f"Origin: http://{own}\r\nContent-Length: 1000000\r\n\r\n"
        )
        connection.sendall(head.encode() + bytes(1000))
        wait_until(lambda: list((tmp_path / "private").rglob("scan.nii")))
    wait_until(lambda: not list((tmp_path / "private").rglob("scan.nii")))


def test_a_port_that_is_taken_is_one_line(server, scans):
    with pytest.raises(InputError, match=f"--port {server.server_port}: cannot be used"):
        Server(scans, server.server_port)


def test_names_of_any_script_are_downloaded_under_their_name(server, tmp_path):
    scan = segment(server, write_ball(tmp_path / "頭 <b>.nii"))
    assert scan["name"] == "頭 _b_.nii"
    name = "%E9%A0%AD%20_b__labels.nii.gz"
    status, headers, _ = ask(server, "GET", f"scans/{scan['id']}/{name}")
    assert status == 200
    assert headers["Content-Disposition"] == f"attachment; filename*=UTF-8''{name}"
