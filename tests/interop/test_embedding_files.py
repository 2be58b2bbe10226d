"""Files of learned embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ppsd.formats.safetensors_file import Spec, write_safetensors
from ppsd.interop.embeddings import load_embeddings, save_embeddings

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def test_both_forms_are_read_back(tmp_path):
    for form, key in (("diffusers", "<cat>"), ("a1111", "emb_params")):
        file = tmp_path / f"{form}.safetensors"
        digest = save_embeddings(file, "<cat>", ROWS.astype(np.float64), form)
        assert digest.nbytes == file.stat().st_size
        assert list(load_file(file)) == [key]
        ((token, rows),) = load_embeddings(file)
        assert token == "<cat>"
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, ROWS)


def test_files_of_others(tmp_path):
    """One vector, half precision, a token named by the file, several tokens."""
    save_file({"emb_params": ROWS.astype(np.float16)}, tmp_path / "my cat.safetensors")
    ((token, rows),) = load_embeddings(tmp_path / "my cat.safetensors")
    assert token == "my cat"
    np.testing.assert_array_equal(rows, ROWS.astype(np.float16).astype(np.float32))
    save_file({"<one>": ROWS[0], "<two>": ROWS}, tmp_path / "two.safetensors")
    found = dict(load_embeddings(tmp_path / "two.safetensors"))
    assert {token: rows.shape for token, rows in found.items()} == {"<one>": (1, 4), "<two>": (3, 4)}
    bits = (np.array([[1.0, -2.5]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    write_safetensors(tmp_path / "bf16.safetensors", {"<x>": Spec("BF16", (1, 2))}, lambda _: bits)
    ((_, rows),) = load_embeddings(tmp_path / "bf16.safetensors")
    assert rows.tolist() == [[1.0, -2.5]]


def test_pickles_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "cat.pt").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=r'does not read pickles .*torch.load\("cat.pt".*"cat.safetensors"'):
        load_embeddings(tmp_path / "cat.pt")
    save_embeddings(tmp_path / "cat.safetensors", "cat", ROWS)
    with pytest.raises(ValueError, match=r"take .*cat.safetensors, which stands beside it"):
        load_embeddings(tmp_path / "cat.pt")


def test_what_is_no_embedding_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"missing"):
        load_embeddings(tmp_path / "none.safetensors")
    save_file({"clip_l": ROWS, "clip_g": ROWS}, tmp_path / "sdxl.safetensors")
    with pytest.raises(ValueError, match="SDXL's two text encoders"):
        load_embeddings(tmp_path / "sdxl.safetensors")
    save_file({"conv_in.weight": np.zeros((2, 2, 3, 3), np.float32)}, tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match=r"conv_in.weight is F32 \[2, 2, 3, 3\], not rows"):
        load_embeddings(tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match=r"shape \[4\]"):
        save_embeddings(tmp_path / "x.safetensors", "<cat>", ROWS[0])
    with pytest.raises(ValueError, match="no form 'pickle'"):
        save_embeddings(tmp_path / "x.safetensors", "<cat>", ROWS, "pickle")
