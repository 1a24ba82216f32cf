"""A download joins no two files and loses no byte, whatever breaks."""

import contextlib
import hashlib
import json
import os
import random
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import patience, refusal, started, until
from trainables.prepare import download as module
from trainables.prepare.download import download

CONTENT = random.Random(0).randbytes(3_000_000)
FUZZ = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """A real server whose ways are attributes; ``log`` has the headers of every request."""

    daemon_threads = True
    content, etag, modified = CONTENT, '"one"', ""
    ranges, honest, chunked = True, True, False  # honest: minds If-Range
    cut: tuple[int, ...] = ()  # bytes of the body after which the connections to come are cut off
    statuses: tuple[int, ...] = ()  # of the requests to come, instead of an answer
    location, pause = "", 0.0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.log: list[dict] = []
        self.url = f"http://127.0.0.1:{self.server_port}/set.tar.gz"
        self.changes = iter(())  # functions, one called after each request

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.log.append(dict(self.headers))
        try:
            self.answer(self.server)
        finally:
            next(self.server.changes, lambda: None)()

    def answer(self, server):
        if server.statuses:
            status, *server.statuses = server.statuses
            self.send_response(status)
            self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        first = self.first(server)
        if first >= len(server.content) and first:
            self.send_response(416)
            return self.end_headers()
        self.headers_of(server, first)
        self.body(server, server.content[first:])

    def first(self, server) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        known = self.headers.get("If-Range") in (server.etag or None, server.modified or None)
        return int(asked[1]) if asked and server.ranges and (known or not server.honest) else 0

    def headers_of(self, server, first):
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)):
            if value:
                self.send_header(name, value)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()

    def body(self, server, content):
        end = len(content)
        if server.cut:
            end, *server.cut = server.cut
        for i in range(0, min(end, len(content)), 50_000):
            piece = content[i : min(i + 50_000, end)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if server.chunked else piece)
            time.sleep(server.pause)
        if server.chunked and end >= len(content):
            self.wfile.write(b"0\r\n\r\n")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "*")  # the server is on this machine


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def starts(server) -> list[int]:
    """The byte that each request asked for first."""
    return [int(re.sub(r"\D", "", headers.get("Range", "0"))) for headers in server.log]


def test_a_file_arrives_whole_and_is_asked_for_once(server, tmp_path):
    seen = []
    path = tmp_path / "set.tar.gz"
    assert download(server.url, path, progress=lambda *numbers: seen.append(numbers)) == sha(CONTENT)
    assert path.read_bytes() == CONTENT and os.listdir(tmp_path) == ["set.tar.gz"]
    assert seen == sorted(seen) and seen[-1] == (3_000_000, 3_000_000) and {total for _, total in seen} == {3_000_000}
    assert download(server.url, path) == sha(CONTENT)
    assert len(server.log) == 1


@pytest.mark.parametrize("validator", ["etag", "modified"])
def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path, validator):
    if validator == "modified":
        server.etag, server.modified = 'W/"weak"', "Fri, 02 Jan 2026 00:00:00 GMT"
    server.cut = (1_000_000, 500_000, 7)
    assert download(server.url, tmp_path / "a") == sha(CONTENT)
    assert starts(server) == [0, 1_000_000, 1_500_000, 1_500_007]
    assert {headers["If-Range"] for headers in server.log[1:]} == {server.modified or server.etag}


def test_many_breaks_are_survived_if_each_brings_something(server, tmp_path):
    server.cut = (100_000,) * 20
    assert download(server.url, tmp_path / "a", tries=2) == sha(CONTENT)
    assert len(server.log) == 21


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("case", ["no ranges", "no validator", "weak validator"])
def test_what_cannot_be_joined_starts_over(server, tmp_path, case, chunked):
    server.ranges, server.chunked = case != "no ranges", chunked
    server.etag = {"no ranges": '"one"', "no validator": "", "weak validator": 'W/"one"'}[case]
    server.cut = (2_000_000, 1_000_000)
    assert download(server.url, tmp_path / "a") == sha(CONTENT)
    assert starts(server) == ([0, 2_000_000, 1_000_000] if case == "no ranges" else [0, 0, 0])


def test_a_chunked_body_that_breaks_goes_on_too(server, tmp_path):
    server.chunked, server.cut, seen = True, (2_000_000,), []
    assert download(server.url, tmp_path / "a", progress=lambda *numbers: seen.append(numbers)) == sha(CONTENT)
    assert starts(server) == [0, 2_000_000] and seen[0][1] == 0


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT[::-1] + b"more", CONTENT[:1_500_000], CONTENT[:10]])
def test_halves_of_two_files_are_never_joined(server, tmp_path, other, honest):
    def change():
        server.content, server.etag = other, '"two"'

    server.honest, server.cut, server.changes = honest, (2_000_000,), iter([change])
    assert download(server.url, tmp_path / "a") == sha(other)


@pytest.mark.parametrize("other", [CONTENT[::-1] + b"more", CONTENT[:2_500_000]])
def test_another_size_alone_gives_a_changed_file_away(server, tmp_path, other):
    """A server that minds neither If-Range nor its own ETag."""
    server.honest, server.cut = False, (2_000_000,)
    server.changes = iter([lambda: setattr(server, "content", other)])
    assert download(server.url, tmp_path / "a") == sha(other)


def test_breaks_without_progress_end_in_one_line_and_the_next_call_goes_on(server, tmp_path):
    server.cut = (1_000_000, 0, 0)
    message = refusal(download, server.url, tmp_path / "a", tries=3)
    assert "it ended after 1000000 of 3000000 bytes: try again, or get it by hand and pass it as `source`" in message
    assert server.url in message and starts(server) == [0, 1_000_000, 1_000_000]
    assert download(server.url, tmp_path / "a") == sha(CONTENT)
    assert starts(server)[3:] == [1_000_000] and os.listdir(tmp_path) == ["a"]


def test_nothing_is_left_where_nothing_came(server, tmp_path):
    server.cut = (0, 0)
    refusal(download, server.url, tmp_path / "a", tries=2)
    assert os.listdir(tmp_path) == []


def test_a_server_that_always_begins_anew_does_not_hold_us_for_ever(server, tmp_path):
    server.ranges, server.cut = False, (1_000_000,) * 50
    refusal(download, server.url, tmp_path / "a", tries=4)
    assert len(server.log) == 4


def test_a_part_of_another_address_is_not_gone_on_with(server, tmp_path):
    server.cut = (1_000_000,)
    refusal(download, server.url, tmp_path / "a", tries=1)
    assert download(server.url + "?mirror", tmp_path / "a") == sha(CONTENT)
    assert starts(server) == [0, 0]


@pytest.mark.parametrize("sidecar", ["", "[]", "{", '{"url": 3}', "null", b"\xff"])
def test_a_damaged_sidecar_starts_over(server, tmp_path, sidecar):
    (tmp_path / "a.part").write_bytes(b"no part of it")
    (tmp_path / "a.part.json").write_bytes(sidecar if isinstance(sidecar, bytes) else sidecar.encode())
    assert download(server.url, tmp_path / "a") == sha(CONTENT)
    assert os.listdir(tmp_path) == ["a"]


def test_a_whole_part_is_not_asked_for_again(server, tmp_path):
    """Killed between the last byte and the rename."""
    (tmp_path / "a.part").write_bytes(CONTENT)
    described = {"url": server.url, "etag": '"one"', "modified": "", "total": len(CONTENT)}
    (tmp_path / "a.part.json").write_text(json.dumps(described))
    assert download(server.url, tmp_path / "a") == sha(CONTENT)
    assert not server.log and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (410, 1), (500, 3), (503, 3), (204, 3), (416, 1)])
def test_a_status_is_one_line(server, tmp_path, status, requests):
    server.statuses = (status,) * 9
    message = refusal(download, server.url, tmp_path / "a", tries=3)
    assert server.url in message and "pass it as `source`" in message and len(server.log) == requests
    assert (str(status) in message) == (status != 204) and os.listdir(tmp_path) == []


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = (503, 429)
    assert download(server.url, tmp_path / "a") == sha(CONTENT)


@pytest.mark.parametrize("location", ["/elsewhere", "", "//127.0.0.1:{port}/x", "http://127.0.0.1:{port}/x"])
def test_a_redirect_is_followed(server, tmp_path, location):
    server.statuses, server.location = (302,), location.format(port=server.server_port)
    assert download(server.url, tmp_path / "a") == sha(CONTENT)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_stays_on_the_web(server, tmp_path, location):
    server.statuses, server.location = (302,), location
    message = refusal(download, server.url, tmp_path / "a")
    assert "the server answered 302" in message and location in message and "not allowed" in message
    assert os.listdir(tmp_path) == []


def test_a_circle_of_redirects_ends(server, tmp_path):
    server.statuses, server.location = (302,) * 99, "/set.tar.gz"
    assert "302" in refusal(download, server.url, tmp_path / "a")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "/etc/passwd", "", "ftp://x/y", "http://[::1", "http://x:port/", "http://a b/", "http://",
     "http://127.0.0.1/ü", "http://127.0.0.1/a b", "http://127.0.0.1:99999/", "http://x\ny/", "data:text/plain,x"],
)  # fmt: skip
def test_a_wrong_address_is_one_line(tmp_path, url):
    assert "pass it as `source`" in refusal(download, url, tmp_path / "a", tries=2)
    assert os.listdir(tmp_path) == []


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_no_connection_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 60)  # no second try
    assert "Connection refused" in refusal(download, f"http://127.0.0.1:{closed_port()}/a", tmp_path / "a")
    assert "there is no connection" in refusal(download, "http://nowhere.invalid/a", tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_a_silent_server_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = refusal(download, f"http://127.0.0.1:{silent.getsockname()[1]}/a", tmp_path / "a", tries=2)
    assert "timed out" in message and os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0\1\2", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 206 OK\r\nContent-Range: bytes x\r\n\r\nabc",
     b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
     b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_what_is_not_http_is_one_line(tmp_path, answer):
    def serve():
        with contextlib.suppress(OSError):
            while True:
                with listening.accept()[0] as connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a"
        assert "pass it as `source`" in refusal(download, url, tmp_path / "a", tries=2)


def test_a_full_disk_is_one_line(server, tmp_path):
    (tmp_path / "a.part").symlink_to("/dev/full")  # every write to it ends in ENOSPC
    assert "No space left on device: make room" in refusal(download, server.url, tmp_path / "a")


def test_a_file_that_cannot_fit_is_not_begun(tmp_path):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 900000000000000000\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: listening.accept()[0].sendall(head), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a"
        assert "at least 900000000.0 GB must be free" in refusal(download, url, tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_does_not_exist_is_one_line(server, tmp_path):
    assert "No such file or directory" in refusal(download, server.url, tmp_path / "none" / "a")


PROGRAM = "import sys, pathlib\nfrom trainables.prepare.download import download\n"
DOWNLOAD = PROGRAM + "print(download(sys.argv[1], pathlib.Path(sys.argv[2])))"


def test_a_killed_process_is_gone_on_from(server, tmp_path):
    server.pause, part = patience(0.02), tmp_path / "a.part"
    process = started(DOWNLOAD, server.url, tmp_path / "a")
    until(lambda: part.exists() and part.stat().st_size > 500_000)
    process.kill()
    process.communicate()
    have, server.pause = part.stat().st_size, 0.0
    assert 500_000 < have < len(CONTENT)
    assert download(server.url, tmp_path / "a") == sha(CONTENT)
    assert starts(server) == [0, have] and os.listdir(tmp_path) == ["a"]


def test_of_two_processes_at_once_the_second_finds_the_file(server, tmp_path):
    server.pause = 0.01
    both = [started(DOWNLOAD, server.url, tmp_path / "a") for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [sha(CONTENT)] * 2
    assert len(server.log) == 1 and os.listdir(tmp_path) == ["a"]
