"""The hashes that kohya's trainer writes, and by which A1111 and its additional-networks extension know a LoRA.

https://github.com/kohya-ss/sd-scripts, library/train_util.py (precalculate_safetensors_hashes) and sai_model_spec.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from ppsd.formats.safetensors_file import Spec, write_order

MODEL, LEGACY, SPEC = "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"
LEGACY_START, LEGACY_SIZE = 0x100000, 0x10000


def kohya_hashes(
    specs: Mapping[str, Spec], values: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> dict[str, str]:
    """Of the tensors as `write_safetensors` lays them out.

    sshs_model_hash, and modelspec.hash_sha256 with its 0x: SHA-256 of all that follows the header. sshs_legacy_hash:
    eight digits, of the 64 KiB after the first MiB of the file, with no metadata but those that begin with ss_.
    """
    whole, window, position = hashlib.sha256(), hashlib.sha256(), 0
    head = _header(specs, {name: text for name, text in metadata.items() if name.startswith("ss_")})
    chunks = (np.ascontiguousarray(values[name]).reshape(-1).view(np.uint8).data for name in write_order(specs))
    for i, data in enumerate([memoryview(head), *chunks]):
        if i:
            whole.update(data)
        start, end = LEGACY_START - position, LEGACY_START + LEGACY_SIZE - position
        window.update(data[max(start, 0) : max(end, 0)])
        position += data.nbytes
    return {MODEL: whole.hexdigest(), LEGACY: window.hexdigest()[:8], SPEC: f"0x{whole.hexdigest()}"}


def _header(specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    """As the safetensors library writes it: other than Python's json, it does not escape what is not ASCII."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name in write_order(specs):
        end = start + specs[name].nbytes
        entries[name] = {"dtype": specs[name].dtype, "shape": list(specs[name].shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
