"""One attempt at reading what is at a URL, from some byte on. Whatever goes wrong is raised as it comes.

Everything but HTTP is read in blocks through fsspec. HTTP is streamed, because a server may not know ranges.
fsspec's asynchronous file systems do not survive a fork: each process makes its own.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
from dataclasses import dataclass
from typing import Any, Optional, Protocol

import fsspec
from fsspec.asyn import reset_lock, sync

from ppsd.formats.remote_settings import RemoteSettings, count
from ppsd.formats.urls import shown_url, url_scheme

TRANSIENT_STATUS = (408, 425, 429)
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")
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
    files = _filesystem(url, settings)
    return HttpSource(files, url, start, settings) if scheme in ("http", "https") else BlockSource(files, url, start)


class BlockSource:
    """A file of any fsspec file system."""

    ranges = True
    one_version = False

    def __init__(self, files: Any, url: str, start: int) -> None:
        self._files, self._path, self.start = files, files._strip_protocol(_known(url)), start
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


async def _http_client(**kwargs: Any) -> Any:
    import aiohttp

    # every lane may hold a connection; a limit would make them wait for one another
    kwargs.setdefault("connector", aiohttp.TCPConnector(limit=0))
    return aiohttp.ClientSession(**{**kwargs, "auto_decompress": False})


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


def is_permanent(error: BaseException) -> bool:
    """Whether trying again is no use."""
    wrong = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)
    return isinstance(error, (*wrong, ssl.CertificateError)) or type(error).__name__ in NO_CREDENTIALS


def final_error(url: str, error: BaseException, attempts: int, position: int) -> OSError:
    """What the reader of a part is told."""
    name = shown_url(url)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{name}: not found")
    if isinstance(error, ImportError):
        extra = ' (pip install "ppsd[s3]")' if url_scheme(url) in ("s3", "s3a", "bos") else ""
        return OSError(f"{name}: a package for {url_scheme(url)}:// is not installed{extra}: {error}")
    if type(error).__name__ in NO_CREDENTIALS:
        return PermissionError(f"{name}: no credentials: {error}; they are those of fsspec and boto (AWS_*, FSSPEC_*)")
    if is_permanent(error):
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        return kind(f"{name}: {error}")
    tries = f"{attempts} attempt{'s' * (attempts > 1)}"
    return OSError(f"{name}: gave up after {tries} at byte {position}: {type(error).__name__}: {error}")


_filesystems: dict[Any, Any] = {}
_of_parent: list[Any] = []
_lock = threading.Lock()


def _after_fork() -> None:
    """The thread of fsspec's event loop stayed with the parent; the connections are the parent's, not ours to close."""
    global _lock
    _of_parent.extend(_filesystems.values())
    _filesystems.clear()
    _lock = threading.Lock()
    reset_lock()


os.register_at_fork(after_in_child=_after_fork)


def _known(url: str) -> str:
    """BOS speaks S3."""
    return "s3" + url[3:] if url_scheme(url) == "bos" else url


def _filesystem(url: str, settings: RemoteSettings) -> Any:
    """fsspec's own cache of file systems makes one a thread, and keeps them all."""
    kind = fsspec.get_filesystem_class(url_scheme(_known(url)))
    options = {**kind._get_kwargs_from_urls(_known(url)), **_bos_options(url)}
    key = (url_scheme(url), settings, tuple(sorted((name, str(value)) for name, value in options.items())))
    with _lock:
        if key not in _filesystems:
            _filesystems[key] = _new_filesystem(kind, options, settings)
        return _filesystems[key]


def _bos_options(url: str) -> dict[str, Any]:
    """fsspec's configuration of bos (FSSPEC_BOS_ENDPOINT_URL, _KEY, _SECRET): S3's file system looks up that of s3."""
    if url_scheme(url) != "bos":
        return {}
    options = dict(fsspec.config.conf.get("bos", {}))
    if not any([options.get("endpoint_url"), os.getenv("AWS_ENDPOINT_URL_S3"), os.getenv("AWS_ENDPOINT_URL")]):
        raise ValueError("no endpoint for bos://: set FSSPEC_BOS_ENDPOINT_URL, e.g. to https://s3.bj.bcebos.com")
    return options


def _new_filesystem(kind: Any, options: dict[str, Any], settings: RemoteSettings) -> Any:
    protocols = kind.protocol if isinstance(kind.protocol, tuple) else (kind.protocol,)
    if "http" in protocols:
        options = {"get_client": _http_client, **options}
    files = kind(**options, skip_instance_cache=True)
    if "s3" in protocols:  # its own retries would multiply with ours; what the user has configured wins
        files.retries = 1
        files.connect_timeout = files.read_timeout = settings.stall_s
        ours = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64}
        files.config_kwargs = {**ours, **files.config_kwargs}
    return files
