"""Load one component of a pipeline, or say in one line why not. Nothing here ever falls back to random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import paddle
from safetensors import safe_open

TORCH_WEIGHTS = "diffusion_pytorch_model*.safetensors"


def load_component(cls: Any, path: str, subfolder: Optional[str], flag: str, **kwargs: Any) -> Any:
    """`cls.from_pretrained` of a local folder (Paddle or torch layout) or a hub name; every weight must be found.

    `flag` is the command-line flag to name in the error. Raises ValueError if the component cannot be loaded whole.
    """
    folder = Path(path, subfolder or "")
    if Path(path).exists():
        _check_folder(folder, flag, cls.__name__, kwargs.get("variant"))
        path, subfolder = str(folder), None
    place: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    if issubclass(cls, paddle.nn.Layer) and Path(path).is_dir() and is_torch_folder(folder):
        place["from_diffusers"] = True
    where = f"{path}/{subfolder}" if subfolder else path
    with _missing_weights(cls) as missing:
        try:
            component = cls.from_pretrained(path, **place, **kwargs)
        except Exception as error:
            raise ValueError(f"{flag}: cannot load {cls.__name__} from {where!r}: {_first_line(error)}") from error
    if missing:
        raise ValueError(f"{flag}: {where} lacks {len(missing)} weights, e.g. {', '.join(sorted(missing)[:3])}")
    return component


def is_torch_folder(folder: Path) -> bool:
    """Whether the weights in `folder` were written by torch (Linear weights [out,in])."""
    if any(folder.glob(TORCH_WEIGHTS)) or any(folder.glob("*.bin")):
        return True
    return any(read_metadata(file).get("format") == "pt" for file in folder.glob("*.safetensors"))


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises ValueError naming it if it is not a whole one."""
    try:
        with safe_open(str(file), framework="np") as weights:
            return dict(weights.metadata() or {})
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError(f"{file}: not a whole safetensors file: {error}") from error


def _check_folder(folder: Path, flag: str, name: str, variant: Optional[str]) -> None:
    if not folder.is_dir():
        raise ValueError(f"{flag}: {folder} is not a folder; a {name} folder or a hub name is needed")
    if not any(folder.iterdir()):
        raise ValueError(f"{flag}: {folder} is empty; a {name} folder is needed")
    if variant and not any(folder.glob(f"*.{variant}.*")):  # the stack would take the other weights
        raise ValueError(f'{flag}: {folder} has no "{variant}" weights')


@contextmanager
def _missing_weights(cls: Any) -> Iterator[list[str]]:
    """Collects the weights that `cls.from_pretrained` does not find: the stack only warns and leaves them random."""
    missing: list[str] = []
    if not issubclass(cls, paddle.nn.Layer):
        yield missing
        return
    load = cls._load_pretrained_model.__func__

    def watched(own: Any, *args: Any, **kwargs: Any) -> Any:
        result = load(own, *args, **kwargs)
        missing.extend(key for key in result[1] if not key.endswith("position_ids"))  # a constant, in old files only
        return result

    cls._load_pretrained_model = classmethod(watched)
    try:
        yield missing
    finally:
        del cls._load_pretrained_model


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
