"""One attempt at reading what is at a URL, from some byte on. Whatever goes wrong is raised as it comes.

Everything but HTTP is read in blocks through fsspec. HTTP is streamed, because a server may not know ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional, Protocol

from fsspec.asyn import sync

from ppsd.formats.remote_filesystems import as_s3, filesystem_of
from ppsd.formats.remote_settings import RemoteSettings, count
from ppsd.formats.urls import shown_url, url_scheme

TRANSIENT_STATUS = (408, 425, 429)
_TAGS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "modified", "created")


@dataclass(frozen=True)
class Facts:
    """What is known of a file before it is read: bytes, and what changes when its content does ("": nothing)."""

    size: Optional[int]
    tag: str


class Source(Protocol):
    """Bytes from `start` on, which may be before the byte that was asked for where a server knows no ranges."""

    facts: Facts
    start: int
    ranges: bool
    one_version: bool

    def read(self, max_bytes: int) -> bytes:
        """Some bytes, b"" at the end."""

    def close(self) -> None: ...


def open_source(url: str, start: int, settings: RemoteSettings) -> Source:
    count("connections")
    scheme = url_scheme(url)
    files = filesystem_of(url, settings)
    return HttpSource(files, url, start, settings) if scheme in ("http", "https") else BlockSource(files, url, start)


class BlockSource:
    """A file of any fsspec file system."""

    ranges = True
    one_version = False

    def __init__(self, files: Any, url: str, start: int) -> None:
        self._files, self._path, self.start = files, files._strip_protocol(as_s3(url)), start
        info = files.info(self._path)
        if info["type"] == "directory":
            raise IsADirectoryError(f"{shown_url(url)}: is a folder")
        self.facts = Facts(info.get("size"), str(next((info[key] for key in _TAGS if info.get(key)), "")))
        self._position = start

    def read(self, max_bytes: int) -> bytes:
        end = self._position + max_bytes
        end = end if self.facts.size is None else min(end, self.facts.size)
        if end <= self._position:
            return b""
        data = self._files.cat_file(self._path, start=self._position, end=end)
        if self.facts.size is not None and len(data) != end - self._position:
            raise ConnectionError(f"{len(data)} bytes where {end - self._position} were asked for")
        self._position += len(data)
        return data

    def close(self) -> None:
        pass


class HttpSource:
    """The answer to one GET. The bytes are those that are stored: nothing is decompressed on the way."""

    one_version = True

    def __init__(self, files: Any, url: str, start: int, settings: RemoteSettings) -> None:
        self._loop = files.loop
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        self._answer = sync(self._loop, _get, files, url, headers, settings.stall_s)
        try:
            self._read_headers(url, start)
        except BaseException:
            self.close()
            raise

    def _read_headers(self, url: str, start: int) -> None:
        status, headers = self._answer.status, self._answer.headers
        _raise_for_status(url, status, self._answer.reason)
        self.start, size = 0, headers.get("Content-Length")
        self.ranges = status == 206 or headers.get("Accept-Ranges") == "bytes"
        if status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise ConnectionError(f"asked for bytes from {start}, got {headers.get('Content-Range')!r}")
            self.start, size = start, found[2]
        tag = headers.get("ETag") or headers.get("Last-Modified") or ""
        self.facts = Facts(int(size) if size and size.isdigit() else None, tag)

    def read(self, max_bytes: int) -> bytes:
        return sync(self._loop, _read_some, self._answer.content, min(max_bytes, 2**18))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._answer.close)


async def _get(files: Any, url: str, headers: dict[str, str], stall_s: float) -> Any:
    import aiohttp

    session = await files.set_session()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
    return await session.get(files.encode_url(url), **{**files.kwargs, "headers": headers, "timeout": timeout})


async def _read_some(content: Any, max_bytes: int) -> bytes:
    """Up to max_bytes. What came before a failure is not lost with it: the stream fails again at the next read."""
    pieces, missing = [], max_bytes
    try:
        while missing and (piece := await content.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
    except Exception:
        if not pieces:
            raise
    return b"".join(pieces)


def _raise_for_status(url: str, status: int, reason: str) -> None:
    answer = f"the server answered {status} {reason}"
    if status in (404, 410):
        raise FileNotFoundError(answer)
    if status in (401, 403, 407):
        raise PermissionError(answer)
    if status >= 500 or status in TRANSIENT_STATUS:
        raise ConnectionError(answer)
    if status not in (200, 206):
        raise ValueError(answer)
