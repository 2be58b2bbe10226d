"""Files of learned embeddings (textual inversion), as diffusers, A1111 and kohya read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppsd.formats.atomic import PathLike
from ppsd.formats.safetensors_file import Digest, SafetensorsFile, Spec, write_safetensors
from ppsd.interop.weights import as_float32

A1111_KEY = "emb_params"
SDXL_KEYS = {"clip_l", "clip_g"}
FORMS = ("diffusers", "a1111")


def save_embeddings(path: PathLike, token: str, rows: np.ndarray, form: str = "diffusers") -> Digest:
    """Write rows [n,D], in float32, as {token: rows}, or as {"emb_params": rows} (A1111: the file's name is the token).

    diffusers reads the second form as well, if it is told the token. Raises ValueError for another shape or form.
    """
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"embeddings of {token!r} have the shape {list(rows.shape)}; [vectors, width] is needed")
    if form not in FORMS:
        raise ValueError(f"no form {form!r} of embedding files; there are {', '.join(FORMS)}")
    name = token if form == "diffusers" else A1111_KEY
    return write_safetensors(path, {name: Spec("F32", rows.shape)}, lambda _: rows, {"format": "pt", "token": token})


def load_embeddings(path: PathLike) -> list[tuple[str, np.ndarray]]:
    """Tokens with their rows float32 [n,D]; a single vector [D] is one row.

    In A1111's form the token is what ppsd noted in the file, else the file's name. Raises ValueError naming the file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(_refusal(path))
    source = SafetensorsFile(path)
    if SDXL_KEYS & set(source.specs):
        raise ValueError(f"{path} holds embeddings for SDXL's two text encoders ({', '.join(source.specs)})")
    found = [(_token(source, name), _rows(source, name)) for name in source.specs]
    if not found:
        raise ValueError(f"{path} holds no embeddings")
    return found


def _token(source: SafetensorsFile, name: str) -> str:
    return source.metadata.get("token", source.path.stem) if name == A1111_KEY else name


def _rows(source: SafetensorsFile, name: str) -> np.ndarray:
    spec = source.specs[name]
    if len(spec.shape) not in (1, 2) or spec.dtype not in ("F64", "F32", "F16", "BF16"):
        raise ValueError(f"{source.path}: {name} is {spec.dtype} {list(spec.shape)}, not rows of an embedding")
    return as_float32(spec, source.read(name)).reshape(-1, spec.shape[-1])


def _refusal(path: Path) -> str:
    other = path.with_suffix(".safetensors")
    if other.is_file():
        return f"{path} is a pickle, which can run any code when it is read; take {other}, which stands beside it"
    return (
        f"{path} is no .safetensors file. ppsd does not read pickles (.pt, .bin): they can run any code when they are"
        " read. Convert it where it is trusted, with torch:"
        f' d = torch.load("{path.name}", weights_only=False); safetensors.torch.save_file('
        f'{{"{A1111_KEY}": d["string_to_param"]["*"].detach()}}, "{other.name}")'
    )
