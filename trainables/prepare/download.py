"""Fetches one file over http or https: streamed, resumed after a break, renamed when it is whole."""

import errno
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from trainables.config import ConfigError
from trainables.prepare.build import locked
from trainables.store import replace_atomically

CHUNK, TIMEOUT, TRIES = 1 << 18, 30, 5  # bytes at once; seconds without a byte; breaks in a row that bring no new byte
PAUSE = 1.0  # seconds before the second try; doubled for each one after it
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another in a moment
Progress = Callable[[int, int], None]


def download(url: str, path: Path, *, sha256: str = "", progress: Progress | None = None) -> str:
    """Make ``path`` the file at ``url`` unless it is there; returns its sha256, compared with ``sha256`` if given.

    Bytes go to ``<path>.part``, from which a later call goes on as long as the server still has the same file.
    ``progress(done, total)`` counts bytes; a total that the server does not tell is 0. A second process waits and then
    finds the file. Raises ConfigError, in one line, for whatever the network, the server or the disk refuses.
    """
    _require_http(url)
    with locked(path):
        part = path.with_name(f"{path.name}.part")
        if not path.exists():
            _receive_all(url, part, progress)
        found = part if not path.exists() else path
        digest = _hash(found)
        _state_of(part).unlink(missing_ok=True)
        if sha256 and digest != sha256:
            found.unlink()
            raise ConfigError(f"{url} must have the sha256 {sha256}, but has {digest}: it was removed, try again")
        if found is part:
            os.replace(part, path)
        return digest


def _require_http(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"an address must begin with http:// or https://, but is {url}")


def _receive_all(url: str, part: Path, progress: Progress | None) -> None:
    """Ask until the last byte is there; give up after TRIES answers in a row that brought nothing new."""
    tries, before = 0, _size(part)
    while True:
        reason = _attempt(url, part, progress)
        if not reason:
            return
        tries = 0 if _size(part) > before else tries + 1
        before = _size(part)
        if tries >= TRIES:
            raise _refused(url, f"{reason}, {TRIES} times in a row")
        time.sleep(PAUSE * 2 ** min(tries, 5))


def _attempt(url: str, part: Path, progress: Progress | None) -> str:
    """One answer of the server; why it was not the whole file, or ""."""
    try:
        whole = _receive(url, part, progress)
        return "" if whole else "the connection broke off"
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # what is here is no beginning of what is there now
        elif error.code not in PASSING:
            raise _refused(url, f"{error.code} {error.reason}") from error
        return f"{error.code} {error.reason}"
    except OSError as error:  # URLError, timeouts and broken connections are among these
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise ConfigError(
                f"{part} cannot be written ({error.strerror}): make room, or choose another place"
            ) from error
        return str(getattr(error, "reason", error)) or type(error).__name__
    except (http.client.HTTPException, ValueError) as error:
        return f"no sound answer ({type(error).__name__})"


def _refused(url: str, reason: str) -> ConfigError:
    line = " ".join(reason.split())
    return ConfigError(
        f"{url} could not be downloaded ({line}): try again later, or fetch it by hand and pass --source"
    )


def _receive(url: str, part: Path, progress: Progress | None) -> bool:
    """Append what ``part`` lacks, or start over where the server has another file; whether all of it is there now."""
    done, validator = _resumable(url, part)
    request = urllib.request.Request(url, headers={"User-Agent": "tune-fairlora", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", validator)
    with _opener().open(request, timeout=TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT or not _starts_at(response, done):
            done = 0
            _remember(url, part, response)
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else 0
        with open(part, "ab" if done else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    return length is None or done == total


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """How many bytes of ``url`` are here, and what says that it is still the same file; 0 where nothing says so."""
    try:
        state = json.loads(_state_of(part).read_text())
        return (_size(part), state["validator"]) if state["url"] == url and state["validator"] else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _remember(url: str, part: Path, response) -> None:
    etag = response.headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else ""  # If-Range takes no weak ones
    state = {"url": url, "validator": strong or response.headers.get("Last-Modified", "")}
    part.unlink(missing_ok=True)  # else an old beginning could be joined with the new file's end
    replace_atomically(_state_of(part), lambda path: path.write_text(json.dumps(state)))


def _starts_at(response, done: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {done}-")


def _opener() -> urllib.request.OpenerDirector:
    """http and https alone, redirects included: urllib's own would follow one to ftp."""
    opener = urllib.request.OpenerDirector()
    names = ("Proxy", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect", "Unknown")
    for kind in (*(getattr(urllib.request, f"{name}Handler") for name in names), urllib.request.HTTPErrorProcessor):
        opener.add_handler(kind())
    return opener


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
