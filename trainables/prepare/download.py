"""From an address to a file: a download that survives breaks, and never joins two files."""

import json
import os
import re
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO, Any

from trainables.config import ConfigError
from trainables.files import file_hash, locked, plain, require_space
from trainables.prepare.build import Progress

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds that a server may stay silent
PAUSE = 1.0  # seconds before the second try; doubled before each further one, up to 30
BUSY = (408, 429, 500, 502, 503, 504)  # the same request may be answered a moment later


class _Broken(ConfigError):
    """A break that another try may mend."""


def download(url: str, path: Path, *, progress: Progress | None = None, tries: int = 5) -> str:
    """Make ``path`` the file at ``url``, going on where an earlier connection or process broke off; returns its sha256.

    Until it is whole it lies in ``<path>.part``, and what the server said of it in ``<path>.part.json``: it is joined
    only to the rest of the very same file, else begun anew. A server that says no size can hide a break. An existing
    ``path`` is hashed, not asked for. ``progress(done, total)`` counts bytes, total 0 if unknown. Raises ConfigError
    after ``tries`` breaks in a row that brought nothing new, for an address that is refused or not http(s), and for a
    full disk. A second process with the same ``path`` waits for the first.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with locked(path):
            if not path.exists():
                _fetch(url, part, progress, tries)
                os.replace(part, path)
                _drop(part)
            return file_hash(path)
    except OSError as error:
        why = f"{url} must fit into {path.parent}, but {error.strerror or error}: make room, or choose another place"
        raise ConfigError(plain(why)) from error


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    Path(f"{part}.json").unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _fetch(url: str, part: Path, progress: Progress | None, tries: int) -> None:
    farthest, failures = _size(part), 0
    while True:
        try:
            return _go_on(url, part, progress)
        except _Broken:
            # Counted by the farthest byte: a server that begins anew each time must not hold us for ever.
            failures = 1 if _size(part) > farthest else failures + 1
            farthest = max(farthest, _size(part))
            if not _size(part):
                _drop(part)
            if failures >= tries:
                raise
            time.sleep(min(PAUSE * 2 ** (failures - 1), 30))


def _go_on(url: str, part: Path, progress: Progress | None) -> None:
    """One request: for the rest of ``part``, which the server answers with the whole if its file is another by now."""
    begun = _begun(url, part)
    have = _size(part) if begun else 0
    if have and have == begun["total"]:
        return  # killed between the last byte and the rename
    headers = {"Range": f"bytes={have}-", "If-Range": begun["etag"] or begun["modified"]} if have else {}
    with _answer(url, headers) as response:
        start, now = _described(url, response)
        # Neither answer need say everything, but what both say must agree.
        same = all(now[key] == begun[key] for key in now.keys() & begun.keys() if now[key] and begun[key])
        if start not in (0, have) or (start and not same):
            _drop(part)
            raise _Broken(_line(url, "the server's file has changed meanwhile"))
        require_space(f"download {url}", part.parent, now["total"] - start)
        if not start:
            part.write_bytes(b"")  # before its sidecar: a kill between the two must not join two files
            Path(f"{part}.json").write_text(json.dumps(now))
        _append(url, response, part, now["total"], progress)


def _begun(url: str, part: Path) -> dict[str, Any]:
    """What the server said of the file that ``part`` begins; {} if there is none, or nothing to know it again by."""
    try:
        begun = json.loads(Path(f"{part}.json").read_text())
        known = begun["url"] == url and (begun["etag"] or begun["modified"])
        return begun if known and _size(part) <= (begun["total"] or _size(part)) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _described(url: str, response: HTTPResponse) -> tuple[int, dict[str, Any]]:
    """Where in the file the answer starts (-1 if it does not say), and the sidecar's content."""
    start, total = 0, getattr(response, "length", 0) or 0
    if response.status != 200:
        said = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        start, total = (int(said[1]), int(said[2].replace("*", "0"))) if said else (-1, 0)
    etag = response.headers.get("ETag", "")
    etag = "" if etag.startswith("W/") else etag  # weak: the same meaning, perhaps other bytes
    return start, {"url": url, "etag": etag, "modified": response.headers.get("Last-Modified", ""), "total": total}


def _append(url: str, response: HTTPResponse, part: Path, total: int, progress: Progress | None) -> None:
    with open(part, "ab") as file:
        while chunk := _chunk(url, response):
            file.write(chunk)
            if progress:
                progress(file.tell(), total)
        file.flush()
        os.fsync(file.fileno())  # the rename must not reach the disk before the content
        if file.tell() < total:
            raise _Broken(_line(url, f"it ended after {file.tell()} of {total} bytes"))


def _chunk(url: str, response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Broken(_line(url, f"the connection broke off ({error or type(error).__name__})")) from error


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """urllib itself refuses redirects to files, but follows those to ftp."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(("http://", "https://")):
            raise urllib.error.HTTPError(newurl, code, f"{msg} - to {newurl}, which is not allowed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _answer(url: str, headers: dict[str, str]) -> Any:
    """urllib's HTTPResponse, or its HTTPError where a shorter file answers, which is read in the same way."""
    try:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://")
        request = urllib.request.Request(url, headers={"User-Agent": "tune-fairlora", **headers})
        return urllib.request.build_opener(_WebOnly).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and headers:
            return error  # the file has become shorter than what we have of it
        error.close()
        kind = _Broken if error.code in BUSY else ConfigError
        raise kind(_line(url, f"the server answered {error.code} {error.reason}")) from error
    except urllib.error.URLError as error:
        kind = _Broken if headers else ConfigError  # with nothing to lose yet, a wrong name is told at once
        raise kind(_line(url, f"there is no connection ({error.reason})")) from error
    except (ValueError, InvalidURL) as error:
        raise ConfigError(_line(url, f"this is no address of a file ({error})")) from error
    except (OSError, HTTPException) as error:
        raise _Broken(_line(url, f"the server does not answer ({error or type(error).__name__})")) from error


def _line(url: str, why: str) -> str:
    return plain(f"{url} must be there to download, but {why}: try again, or get it by hand and pass it as `source`")
