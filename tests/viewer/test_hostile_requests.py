"""The page's server under attack: bytes that are no request, and connections without end."""

import contextlib
import json
import socket
import threading
import time
import zipfile

import pytest

from mtseg.viewer import scan_list
from mtseg.viewer.uploads import open_uploads
from mtseg.viewer.web.connections import Connections
from mtseg.viewer.web.server import list_hosts
from tests.viewer.conftest import write_ball
from tests.viewer.test_server import ask, ask_json, segment, state_of, upload
from tests.viewer.threshold_computer import wait_until

pytestmark = pytest.mark.promise("loopback only")


def exchange(server, content):
    """All that the server sends for some bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(content)
        received = b""
        while piece := connection.recv(1 << 16):
            received += piece
    return received


def head_of(server, line, *headers):
    own = f"127.0.0.1:{server.server_port}"
    sent = [f"Host: {own}", f"Origin: http://{own}", *headers]
    return "\r\n".join([line.replace("TOKEN", server.token), *sent, "", ""]).encode()


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 5", "Content-Length: 60"], ["Content-Length: -1"],
        ["Content-Length: +5"], ["Content-Length: 1_0"], ["Content-Length: 5, 5"],
        ["Content-Length: 0x10"], ["Transfer-Encoding: chunked"],
        ["Content-Length: 4", "Transfer-Encoding: chunked"], ["Transfer-Encoding: identity"],
        ["Content-Length : 60"], ["no header at all", "Transfer-Encoding: chunked"],
    ],
    ids=" / ".join,
)  # fmt: skip
def test_a_body_of_uncertain_length_is_not_taken_for_a_request(server, headers):
    """What follows could be a request that another program hides in the body (smuggling)."""
    hidden = head_of(server, "GET /TOKEN/state HTTP/1.1")
    answer = exchange(server, head_of(server, "POST /TOKEN/uploads HTTP/1.1", *headers) + hidden)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 411"))
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    "line",
    [
        "GARBAGE", "GET /TOKEN/state HTTP/9.9", "TRACE /TOKEN/ HTTP/1.1",
        "OPTIONS /TOKEN/ HTTP/1.1",
        "PATCH /TOKEN/uploads HTTP/1.1", "CONNECT 127.0.0.1:1 HTTP/1.1", "GET /TOKEN/x y HTTP/1.1",
        "GET /TOKEN/" + "x" * 70_000 + " HTTP/1.1", "\x16\x03\x01\x02",
    ],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_what_is_no_request_is_refused_without_repeating_it(server, line, capfd):
    """Not even the token, which may be in it."""
    answer = exchange(server, head_of(server, line) + head_of(server, "GET /TOKEN/state HTTP/1.1"))
    assert server.token.encode() not in answer
    assert b"GARBAGE" not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"<" not in answer  # no page
    assert capfd.readouterr() == ("", "")


def test_more_headers_than_any_browser_sends_are_refused(server):
    many = head_of(server, "GET /TOKEN/state HTTP/1.1", *(f"X-{n}: y" for n in range(200)))
    assert exchange(server, many).startswith(b"HTTP/1.1 431")
    long = head_of(server, "GET /TOKEN/state HTTP/1.1", "X: " + "y" * 70_000)
    assert exchange(server, long).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("value", ["[]", "null", "{}", "1e999", "NaN", '"x"', "-1", "[1]"])
def test_a_number_that_is_none_is_one_line(server, value, capfd):
    body = f'{{"upload": {value}, "name": {value}}}'.encode()
    status, _, content = ask(server, "POST", "scans/1/reference", body)
    assert (status, json.loads(content)) == (404, {"error": "There is no such thing."})
    assert ask(server, "POST", "uploads", body)[0] == 200  # a name is made of anything
    assert capfd.readouterr() == ("", "")


def test_the_address_in_the_arguments_of_the_browser_works_once(server):
    """Other users of the machine can read the arguments of programs."""
    path = server.url_for_once.split("/", 3)[3]
    assert server.token not in path
    foreign = "GET /" + path + " HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert exchange(server, foreign.encode()).startswith(b"HTTP/1.1 403")
    request = head_of(server, f"HEAD /{path} HTTP/1.1", "Connection: close")
    assert exchange(server, request).startswith(b"HTTP/1.1 404")
    request = head_of(server, f"GET /{path} HTTP/1.1", "Connection: close")
    answer = exchange(server, request)
    assert answer.startswith(b"HTTP/1.1 303")
    assert f"Location: /{server.token}/\r\n".encode() in answer
    assert exchange(server, request).startswith(b"HTTP/1.1 404")
    assert exchange(server, request.replace(path.encode(), b"open/None")).startswith(
        b"HTTP/1.1 404"
    )


def test_browsers_leave_out_the_port_of_the_scheme():
    assert set(list_hosts(80)) >= {"127.0.0.1", "localhost", "127.0.0.1:80"}
    assert set(list_hosts(8080)) == {"127.0.0.1:8080", "localhost:8080"}


@pytest.fixture
def few(server):
    server.connections = Connections(most=10, longest_wait_s=2.0)
    return server


def test_idle_connections_do_not_keep_the_page_from_answering(few):
    """Half of a request on each of many connections, and nothing more."""
    idle = [socket.create_connection(("127.0.0.1", few.server_port)) for _ in range(60)]
    try:
        for connection in idle:
            connection.sendall(b"GET /")
        assert ask(few, "GET", "state")[0] == 200
        wait_until(lambda: threading.active_count() < 40)
    finally:
        for connection in idle:
            connection.close()


def test_a_request_that_comes_letter_by_letter_is_not_waited_for(few):
    with socket.create_connection(("127.0.0.1", few.server_port), timeout=20) as connection:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 20:
                connection.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - started < 10


@pytest.mark.slow
@pytest.mark.thorough
def test_a_thousand_half_open_connections(server):
    idle = []
    try:
        for number in range(1000):
            idle.append(socket.create_connection(("127.0.0.1", server.server_port)))
            idle[-1].sendall(b"PUT /uploads/1 HTTP/1.1\r\nHost:"[: 1 + number % 30])
            if number % 100 == 99:
                assert ask(server, "GET", "state")[0] == 200
    finally:
        for connection in idle:
            connection.close()
    wait_until(lambda: threading.active_count() < 120)
    assert ask(server, "GET", "state")[0] == 200


def test_two_browsers_that_ask_for_all_results_at_once_get_whole_files(server, scan_file, tmp_path):
    scan = segment(server, scan_file)
    answers = []

    def download(name):
        answers.append(ask(server, "GET", f"scans/{scan['id']}/{name}")[2])

    for name in ("results.zip", "scan.nii?step=2"):
        threads = [threading.Thread(target=download, args=[name]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (tmp_path / "first.zip").write_bytes(answers[0])
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        assert archive.testzip() is None
    assert {len(answer) for answer in answers[:8]} == {len(answers[0])}
    assert len(set(answers[8:])) == 1
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_scan_that_is_removed_while_it_is_downloaded_is_not_found(server, scans, scan_file):
    number = segment(server, scan_file)["id"]
    (path,) = scans.scan(number).out.rglob("ball_labels.nii.gz")
    path.unlink()
    assert ask(server, "GET", f"scans/{number}/ball_labels.nii.gz")[0] == 404


def files_of(tmp_path):
    return [path for path in (tmp_path / "private").rglob("*") if path.is_file()]


def test_an_upload_that_is_removed_while_a_file_arrives_leaves_nothing(server, tmp_path):
    number = ask_json(server, "POST", "uploads", {"name": "scan.nii"})["id"]
    line = f"PUT /TOKEN/uploads/{number}?name=scan.nii HTTP/1.1"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(head_of(server, line, "Content-Length: 100000") + bytes(1000))
        wait_until(lambda: files_of(tmp_path))
        error = ask_json(server, "POST", f"uploads/{number}", {}, status=422)["error"]
        assert "still arriving" in error  # half of a scan is not segmented
        ask_json(server, "DELETE", f"uploads/{number}")
        connection.sendall(bytes(99_000))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 422")
    wait_until(lambda: not (tmp_path / "private" / "uploads" / str(number)).exists())


def test_an_upload_whose_browser_was_closed_is_removed(server, tmp_path, scan_file, monkeypatch):
    upload(server, scan_file)
    ask_json(server, "GET", "state")
    assert files_of(tmp_path)
    monkeypatch.setattr(open_uploads, "ABANDONED_S", -1.0)
    wait_until(lambda: not files_of(tmp_path))  # though no page asks any more


def test_a_reference_for_a_scan_that_is_gone_is_removed(server, tmp_path, scan_file):
    number = upload(server, scan_file)
    error = ask_json(server, "POST", "scans/99/reference", {"upload": number}, status=422)["error"]
    assert "has no labels to compare with" in error
    assert not files_of(tmp_path)


def test_a_comparison_that_is_cancelled_while_it_waits_is_over(
    server, scans, computer, tmp_path, scan_file
):
    done = segment(server, scan_file)["id"]
    computer.may_go_on.clear()
    other = upload(server, write_ball(tmp_path / "other.nii"))
    (in_work,) = ask_json(server, "POST", f"uploads/{other}", {})["scans"]
    wait_until(lambda: state_of(server, in_work)["state"] == "computing")
    ask_json(server, "POST", f"scans/{done}/reference", {"upload": upload(server, scan_file)})
    assert state_of(server, done)["reference_waits"]
    ask_json(server, "POST", f"scans/{done}/cancel", {})
    assert not state_of(server, done)["reference_waits"]
    assert state_of(server, done)["reference_message"] == "cancelled"
    computer.may_go_on.set()


def test_a_fault_of_the_computer_does_not_stop_the_next_scan(
    server, computer, scan_file, tmp_path, monkeypatch, capfd
):
    """Such as that no process can be started, for want of memory or file descriptors."""
    with monkeypatch.context() as broken:
        broken.setattr(computer, "run", lambda *_: (_ for _ in ()).throw(OSError(12, "no memory")))
        failed = segment(server, scan_file)
    assert failed["state"] == "failed"
    assert "no memory" in failed["message"]
    assert segment(server, write_ball(tmp_path / "next.nii"))["state"] == "done"
    assert "no memory" in capfd.readouterr().err


def test_more_scans_than_a_page_keeps_are_refused(server, scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(scan_list, "_MOST_SCANS", 3)
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(4):
            archive.write(scan_file, f"{number}.nii.gz")
    error = ask_json(server, "POST", f"uploads/{upload(server, path)}", {}, status=422)["error"]
    assert error.startswith("many.zip: has 4 scans")
    assert not files_of(tmp_path)
