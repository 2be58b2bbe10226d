"""base64 that is checked to the letter, decoded with pybase64 where it is installed, else with the standard library."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Union

try:
    import pybase64

    LIBRARY: Any = pybase64
except ImportError:
    LIBRARY = base64

from ppsd.formats.lines import excerpt
from ppsd.types import BadRecord

BAD_BASE64 = "invalid base64"


def decode_base64(text: Union[bytes, memoryview]) -> bytes | BadRecord:
    """The bytes that `text` spells: whole groups of four letters of the standard alphabet, `=` at the end only."""
    try:
        # The standard library takes more padding than there can be, and lacking padding is another error in each.
        if len(text) % 4 == 0 and text[-3:] != b"===":
            return bytes(LIBRARY.b64decode(text, validate=True))
    except binascii.Error:
        return _bad(bytes(text))
    return _bad(bytes(text))


def _bad(text: bytes) -> BadRecord:
    return BadRecord(BAD_BASE64, f"{_fault(text)}, in {len(text)} characters: {excerpt(text)}")


def _fault(text: bytes) -> str:
    foreign = re.search(rb"[^A-Za-z0-9+/=]", text)
    if foreign:
        return f"{foreign[0]!r} at character {foreign.start()}"
    return f"{len(text)} is not a multiple of 4" if len(text) % 4 else "padding before the end"
