"""Which file is meant, and that it is no pickle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ppsd.formats.atomic import PathLike, naming
from ppsd.formats.safetensors_file import SafetensorsFile

IN_FOLDERS = ("pytorch_lora_weights.safetensors", "paddle_lora_weights.safetensors")
CHECKPOINT = "adapter/weights.safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pdparams")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def open_lora(path: PathLike) -> SafetensorsFile:
    """A file, or a folder that diffusers, ppdiffusers or a run of ppsd has saved one in, or a checkpoint of the last.

    Raises ValueError for pickles and for cut files.
    """
    path = Path(path)
    path = _in_folder(path) if path.is_dir() else path
    if path.suffix in PICKLES or (path.is_file() and _starts_as_pickle(path)):
        raise ValueError(_refusal(path))
    if path.is_file() and path.stat().st_size < 8:
        raise ValueError(f"{path} is empty: {path.stat().st_size} bytes")
    return SafetensorsFile(path)


def _in_folder(folder: Path) -> Path:
    found = [folder / name for name in IN_FOLDERS if (folder / name).is_file()]
    ours = (folder / CHECKPOINT, folder / f"{folder.resolve().name}.safetensors")
    found = found or [file for file in ours if file.is_file()]
    if len(found) != 1:
        names = ", ".join([*IN_FOLDERS, CHECKPOINT, ours[1].name])
        raise ValueError(f"{folder} holds {len(found) or 'none'} of {names}; name the file")
    return found[0]


def refuse_input(output: Path, inputs: Iterable[PathLike]) -> None:
    """Raise ValueError where `output` is one of the files that it is made from: what it held could not come back."""
    for path in inputs:
        file = open_lora(path).path
        if output.exists() and output.samefile(file):
            raise ValueError(f"{output} is {file}, which is read; name another file to write")


def _starts_as_pickle(path: Path) -> bool:
    """A header's length can look like one, but the header begins with a brace."""
    with naming(path), open(path, "rb") as file:
        start = file.read(9)
    return start.startswith(PICKLE_STARTS) and start[8:] != b"{"


def _refusal(path: Path) -> str:
    other = path.with_suffix(".safetensors")
    if other != path and other.is_file():
        return f"{path} is a pickle, which can run any code when it is read; take {other}, which stands beside it"
    target = other.name if other != path else f"{path.stem}-converted.safetensors"
    how = (
        f'with paddle: d = paddle.load("{path.name}", return_numpy=True); safetensors.numpy.save_file(d, "{target}",'
        ' {"format": "pd"})'
        if path.suffix == ".pdparams"
        else f'with torch: d = torch.load("{path.name}", weights_only=True); safetensors.torch.save_file('
        f'{{k: v.contiguous() for k, v in d.items()}}, "{target}")'
    )
    return (
        f"{path} is a pickle. ppsd does not read pickles ({', '.join(PICKLES)}): they can run any code when they are"
        f" read. Convert it where it is trusted, {how}"
    )
