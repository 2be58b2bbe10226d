"""Names of optimizers in the public recipes, what each takes in --optimizer_args, and what to use instead of others."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Optional

_ADAFACTOR = "eps clip_threshold decay_rate beta1 scale_parameter relative_step warmup_init weight_decay"
OPTIONS = {
    "AdamW": "betas eps weight_decay",
    "AdamW8bit": "betas eps weight_decay",
    "Lion": "betas weight_decay",
    "Lion8bit": "betas weight_decay",
    "Adafactor": _ADAFACTOR,
    "SGDNesterov": "momentum weight_decay",
}
"""What --optimizer_type can be, and the keys that --optimizer_args takes with it."""

MEANINGS = {
    "AdamW8bit": "ppsd's own AdamW whose moments are bytes, in blocks of 256 as with bitsandbytes",
    "Lion": "sign of a momentum; wants 3 to 10 times less --learning_rate than AdamW",
    "Lion8bit": "ppsd's own Lion whose moment is bytes, in blocks of 256 as with bitsandbytes",
    "Adafactor": "second moments by rows and columns, step sizes as --optimizer_args says",
    "SGDNesterov": "one momentum, decay as L2",
}
"""What the log says of each but AdamW."""

_PAIRS = ("betas",)
_BOOLEANS = ("scale_parameter", "relative_step", "warmup_init")


def optimizer_name(asked: str, flag: str = "--optimizer_type") -> str:
    """A key of OPTIONS, whatever its case. Raises ValueError saying what to use instead."""
    names = {name.lower(): name for name in OPTIONS}
    if asked.lower() not in names:
        raise ValueError(f"{flag} {asked}: {_instead(asked.lower()) or 'not known'}; known are {', '.join(OPTIONS)}")
    return names[asked.lower()]


def _instead(name: str) -> Optional[str]:
    if name.startswith(("prodigy", "dadapt")):
        return (
            "no kept implementation for paddle finds its own learning rate. Nearest is Adafactor with --optimizer_args"
            " relative_step=True scale_parameter=True, or AdamW with a --learning_rate"
        )
    if name.startswith("paged"):
        return "paddle has no paged memory; AdamW8bit and Lion8bit make the state small instead"
    return {
        "sgdnesterov8bit": "SGD is not kept in 8 bits; Lion8bit needs a quarter of SGDNesterov's state",
        "adam": "AdamW with --weight_decay 0 is Adam",
        "adam8bit": "AdamW8bit with --weight_decay 0 is it",
    }.get(name)


def optimizer_options(name: str, words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as keyword arguments of optimizer `name`. Raises ValueError naming the word."""
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in OPTIONS[name].split():
            known = ", ".join(OPTIONS[name].split())
            raise ValueError(f"--optimizer_args {word}: {name} takes key=value of {known}")
        try:
            options[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"--optimizer_args {word}: {text!r} is not a number, True, False or a,b") from error
        if not _is_right(name, key, options[key]):
            raise ValueError(f"--optimizer_args {word}: {_wanted(name, key)}")
    return options


def _is_right(name: str, key: str, value: Any) -> bool:
    if key in _BOOLEANS:
        return isinstance(value, bool)
    if _is_pair(name, key):
        highest = 1.0 if key == "betas" else float("inf")
        return isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_number(v, 0, highest) for v in value)
    if key == "decay_rate":
        return _is_number(value, -1, 0) and value < 0
    if key == "clip_threshold":
        return _is_number(value, 0, float("inf")) and value > 0
    if key == "beta1" and value is None:
        return True
    return _is_number(value, 0, 1.0 if key in ("beta1", "momentum") else float("inf"))


def _wanted(name: str, key: str) -> str:
    if key in _BOOLEANS:
        return "True or False is needed"
    if key == "decay_rate":
        return "a number from -1 to below 0 is needed"
    if key == "clip_threshold":
        return "a number above 0 is needed"
    if _is_pair(name, key):
        return "two numbers are needed, as in " + ("betas=0.9,0.99" if key == "betas" else "eps=1e-30,1e-3")
    return "a number is needed, at least 0" + (" and below 1" if key in ("beta1", "momentum") else "")


def _is_pair(name: str, key: str) -> bool:
    return key in _PAIRS or (key, name) == ("eps", "Adafactor")


def _is_number(value: Any, least: float, below: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < below
