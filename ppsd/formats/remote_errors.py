"""Failures of reading what is at a URL: which of them may pass, and how the reader of a part is told of the others."""

from __future__ import annotations

import ssl

from ppsd.formats.urls import shown_url, url_scheme

NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")


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
