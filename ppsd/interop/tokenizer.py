"""A CLIP tokenizer folder as transformers reads it; tokens that training added keep their ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
COPIED = ("vocab.json", "merges.txt")


def write_tokenizer(source: Path, target: Path) -> None:
    """From `source` (paddlenlp's CLIPTokenizer) into `target`, which exists. Raises ValueError for a missing file."""
    for name in COPIED:
        if not (source / name).is_file():
            raise ValueError(f"{source / name} is missing: a CLIP tokenizer has one")
        shutil.copyfile(source / name, target / name)
    vocab, config = _read(source / "vocab.json"), _read(source / "tokenizer_config.json")
    added_file = source / "added_tokens.json"
    added = _read(added_file) if added_file.is_file() else {}
    roles = {role: _text(config[role]) for role in ROLES if config.get(role)}
    ids = {**vocab, **added}
    for role, text in roles.items():
        if text not in ids:
            raise ValueError(f"{source}: {role} is {text!r}, which is in neither vocab.json nor added_tokens.json")
    entries = {int(ids[text]): _entry(text, special=True) for text in roles.values()}
    entries.update(
        {int(index): _entry(text, special=False) for text, index in added.items() if text not in roles.values()}
    )
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": config.get("model_max_length", config.get("max_len", 77)),
        "errors": config.get("errors", "replace"),
        "do_lower_case": True,
        "added_tokens_decoder": {str(index): entries[index] for index in sorted(entries)},
        **roles,
    }
    _write(target / "tokenizer_config.json", settings)
    _write(target / "special_tokens_map.json", roles)
    if added:
        _write(target / "added_tokens.json", added)


def _text(token: Any) -> str:
    """A token, or the description of one."""
    return str(token["content"] if isinstance(token, dict) else token)


def _entry(text: str, special: bool) -> dict[str, Any]:
    return {
        "content": text,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
        "special": special,
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
