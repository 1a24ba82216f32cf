"""Downloads from a real server on loopback that breaks, forgets ranges, changes its file, refuses and redirects."""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from trainables.config import ConfigError
from trainables.prepare import download as module
from trainables.prepare.download import download

CONTENT = bytes(range(256)) * 8000  # 2 MB


class Server(http.server.ThreadingHTTPServer):
    """``breaks`` answers end after ``stop`` bytes; ``log`` holds the Range header of each request, or ""."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges, self.breaks, self.stop = CONTENT, '"v1"', True, 0, 700_000
        self.answer, self.location, self.pause, self.log = 200, "", 0.0, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range", "")
        server.log.append(wanted)
        if server.answer != 200:
            self.send_response(server.answer)
            self.send_header("Content-Length", "0")
            if server.location:
                self.send_header("Location", server.location)
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0) if server.ranges else 0
        if start and self.headers.get("If-Range") != server.etag:
            start = 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.send_body(server.content[start:])

    def send_body(self, body: bytes):
        if self.server.breaks:
            self.server.breaks -= 1
            body = body[: self.server.stop]
        for at in range(0, len(body), 50_000):
            self.wfile.write(body[at : at + 50_000])
            time.sleep(self.server.pause)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.001)
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def refusal(server, path, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        download(server.url, path, **options)
    assert "\n" not in str(caught.value) and not path.exists()
    return str(caught.value)


def test_a_file_is_fetched_once_and_its_checksum_returned(server, tmp_path):
    steps = []
    digest = download(server.url, tmp_path / "a", progress=lambda *step: steps.append(step))
    assert (tmp_path / "a").read_bytes() == CONTENT and digest == hashlib.sha256(CONTENT).hexdigest()
    assert steps[-1] == (len(CONTENT), len(CONTENT)) and os.listdir(tmp_path) == ["a"]
    assert download(server.url, tmp_path / "a") == digest and server.log == [""]


@pytest.mark.parametrize("breaks", [1, 2])
def test_a_broken_answer_is_continued_where_it_broke(server, tmp_path, breaks):
    server.breaks = breaks
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.log == ["", "bytes=700000-", "bytes=1400000-"][: breaks + 1]


def test_many_breaks_are_borne_as_long_as_each_brings_something(server, tmp_path):
    server.breaks, server.stop = 15, 100_000
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT and len(server.log) == 16


def test_without_ranges_the_file_is_fetched_anew(server, tmp_path):
    server.ranges, server.breaks = False, 1
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['W/"v1"', ""])
def test_without_a_sign_that_it_is_the_same_file_nothing_is_joined(server, tmp_path, etag):
    server.etag, server.breaks = etag, 1
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT and server.log == ["", ""]


def test_two_versions_of_a_file_are_never_joined(server, tmp_path, monkeypatch):
    server.breaks, server.stop = 1, 900_000
    monkeypatch.setattr(module, "TRIES", 0)
    assert "the connection broke off" in refusal(server, tmp_path / "a")
    assert (tmp_path / "a.part").stat().st_size == 900_000
    server.content, server.etag = CONTENT[::-1], '"v2"'
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1] and os.listdir(tmp_path) == ["a"]


def test_another_address_does_not_continue_the_first_ones_bytes(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"of another file")
    (tmp_path / "a.part.json").write_text('{"url": "http://elsewhere/a", "validator": "\\"v1\\""}')
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT and server.log == [""]


def test_a_wrong_checksum_removes_what_was_fetched(server, tmp_path):
    line = refusal(server, tmp_path / "a", sha256="0" * 64)
    assert "must have the sha256 000" in line and os.listdir(tmp_path) == []


@pytest.mark.parametrize(("answer", "asked"), [(404, 1), (403, 1), (500, 5), (503, 5)])
def test_a_refusal_is_one_line_and_a_passing_one_is_tried_again(server, tmp_path, answer, asked):
    server.answer = answer
    line = refusal(server, tmp_path / "a")
    assert f"({answer} " in line and "fetch it by hand and pass --source" in line and len(server.log) == asked
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_a_redirect_leads_nowhere_but_to_http(server, tmp_path, location):
    server.answer, server.location = 302, location
    refusal(server, tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "/etc/passwd", ""])
def test_an_address_must_be_http(tmp_path, url):
    with pytest.raises(ConfigError, match="must begin with http"):
        download(url, tmp_path / "a")


def test_nobody_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.001)
    for url in ("http://127.0.0.1:9/a", "http://no-such-host.invalid/a"):
        with pytest.raises(ConfigError, match="could not be downloaded"):
            download(url, tmp_path / "a")


FETCH = "import sys; from pathlib import Path; from trainables.prepare.download import download; "
FETCH += "download(sys.argv[1], Path(sys.argv[2]))"


def fetching(server, path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", FETCH, server.url, str(path)], stderr=subprocess.PIPE)


def test_a_killed_download_goes_on_in_the_next_process(server, tmp_path):
    server.pause = 0.02
    process = fetching(server, tmp_path / "a")
    part, until = tmp_path / "a.part", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 300_000):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.pause = 0
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT and os.listdir(tmp_path) == ["a"]
    first, second = server.log
    assert first == "" and int(second.removeprefix("bytes=").rstrip("-")) >= 262_144


def test_two_processes_fetch_it_once(server, tmp_path):
    server.pause = 0.005
    for process in [fetching(server, tmp_path / "a") for _ in range(2)]:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
    assert (tmp_path / "a").read_bytes() == CONTENT and server.log == [""] and os.listdir(tmp_path) == ["a"]
