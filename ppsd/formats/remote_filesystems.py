"""The fsspec file systems of this process. Its asynchronous ones do not survive a fork: each process makes its own."""

from __future__ import annotations

import os
import threading
from typing import Any

import fsspec
from fsspec.asyn import reset_lock

from ppsd.formats.remote_settings import RemoteSettings
from ppsd.formats.urls import url_scheme

_filesystems: dict[Any, Any] = {}
_of_parent: list[Any] = []
_lock = threading.Lock()


def as_s3(url: str) -> str:
    """BOS speaks S3."""
    return "s3" + url[3:] if url_scheme(url) == "bos" else url


def filesystem_of(url: str, settings: RemoteSettings) -> Any:
    """The one file system of this process for `url`. fsspec's own cache would make one a thread, and keep them all."""
    kind = fsspec.get_filesystem_class(url_scheme(as_s3(url)))
    options = {**kind._get_kwargs_from_urls(as_s3(url)), **_bos_options(url)}
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


async def _http_client(**kwargs: Any) -> Any:
    import aiohttp

    # every lane may hold a connection; a limit would make them wait for one another
    kwargs.setdefault("connector", aiohttp.TCPConnector(limit=0))
    return aiohttp.ClientSession(**{**kwargs, "auto_decompress": False})


def _after_fork() -> None:
    """The thread of fsspec's event loop stayed with the parent; the connections are the parent's, not ours to close."""
    global _lock
    _of_parent.extend(_filesystems.values())
    _filesystems.clear()
    _lock = threading.Lock()
    reset_lock()


os.register_at_fork(after_in_child=_after_fork)
