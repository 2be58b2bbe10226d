"""Telling URLs from local paths, and joining them. Nothing here touches a disk or a network."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import urlsplit, urlunsplit

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def url_scheme(path: str) -> str | None:
    """`s3` of `s3://bucket/key`, in lower case; None for a local path."""
    match = _SCHEME.match(path)
    return match[1].lower() if match else None


def is_url(path: str) -> bool:
    return url_scheme(path) is not None


def beside_url(url: str, entry: str) -> str:
    """The URL that the relative path `entry` names in a file at `url`; the query of an http URL is not inherited."""
    if url_scheme(url) in ("http", "https"):
        place = urlsplit(url)
        return urlunsplit((place.scheme, place.netloc, _beside(place.path or "/", entry), "", ""))
    scheme, _, rest = url.partition("://")
    bucket, slash, key = rest.partition("/")
    return f"{scheme}://{bucket}{slash}{_beside('/' + key, entry).lstrip('/')}"


def _beside(path: str, entry: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), entry))


def last_name(path: str) -> str:
    """The last component of a local path or a URL; a folder's is the same with and without a slash at its end."""
    return path.rstrip("/").rpartition("/")[2]


def shown_url(url: str) -> str:
    """A URL as messages may show it: without a password and without a signature in its query. A local path as it is."""
    if not is_url(url) or ("@" not in url and "?" not in url):
        return url
    place = urlsplit(url)
    host = place.netloc.rpartition("@")[2]
    return urlunsplit((place.scheme, host, place.path, "..." if place.query else "", ""))
