"""Opening what a file list names: a local file, or a URL of any protocol that fsspec knows.

Credentials and endpoints are fsspec's and boto's own: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL,
~/.aws, or FSSPEC_S3_KEY, FSSPEC_S3_SECRET, FSSPEC_S3_ENDPOINT_URL and the files in ~/.config/fsspec. `s3://` needs
`pip install "ppsd[s3]"`. Baidu's BOS speaks S3: either `s3://bucket/key` with AWS_ENDPOINT_URL=https://s3.bj.bcebos.com
(the region's S3 endpoint), or `bos://bucket/key` with FSSPEC_BOS_ENDPOINT_URL, FSSPEC_BOS_KEY and FSSPEC_BOS_SECRET,
where S3 and BOS are used side by side.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from ppsd.formats.atomic import PathLike
from ppsd.formats.remote_files import open_url
from ppsd.formats.urls import url_scheme


def open_input(path: PathLike, seekable: bool = False, keep: bool = True) -> BinaryIO:
    """A buffered binary file with `peek`; seekable: one that can be read at any place.

    keep: whether what is at a URL may come from the cache and go there, when there is one.
    Raises OSError, whatever is wrong with the path or the network; failures that may pass are retried first
    (see ppsd.formats.remote_settings.configure).
    """
    name = os.fspath(path)
    scheme = url_scheme(name)
    if scheme not in (None, "file"):
        return open_url(name, seekable, keep)
    return open(name[len("file://") :] if scheme else name, "rb", buffering=2**17)
