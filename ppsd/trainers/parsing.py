"""Command line and YAML recipe to argument dataclasses, with errors that say what to write instead."""

import dataclasses
import difflib
import sys
from argparse import SUPPRESS
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

import yaml
from paddlenlp.trainer import PdArgumentParser

from ppsd.trainers.arguments import (
    MEANINGLESS,
    DataArguments,
    ModelArguments,
    SDTrainingArguments,
    recipe_defaults,
)
from ppsd.trainers.foreign_flags import ALIASES, ELSEWHERE
from ppsd.trainers.run import Run

_PRECISIONS = {"no": [], "bf16": ["--bf16"], "fp16": ["--fp16"]}


class _Parser(PdArgumentParser):
    @staticmethod
    def _parse_dataclass_field(parser: Any, field: Any) -> None:
        if field.name not in MEANINGLESS:
            PdArgumentParser._parse_dataclass_field(parser, field)

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2; the usage of 150 flags helps nobody."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def parse_run(
    own: Optional[type] = None, args: Optional[Sequence[str]] = None, defaults: Optional[Mapping[str, Any]] = None
) -> Run:
    """The flags of a method, whose own ones are the fields of `own`; exits as `parse_arguments` does."""
    types = (ModelArguments, DataArguments, SDTrainingArguments, *([own] if own else []))
    return Run(*parse_arguments(types, args, defaults=defaults))


def parse_arguments(
    types: Iterable[Any],
    args: Optional[Sequence[str]] = None,
    description: str = "",
    defaults: Optional[Mapping[str, Any]] = None,
) -> tuple:
    """One object of each dataclass in `types`. Order of precedence: command line, `--config` YAML, FLAG_* variables,
    `defaults`, the dataclasses.

    Exits with code 2 and one line for an unknown flag or key, a wrong value, or an unreadable YAML file.
    """
    argv = list(sys.argv[1:] if args is None else args)
    parser = _Parser(list(types), allow_abbrev=False, description=description)
    parser.add_argument("--config", help="YAML recipe; a flag on the command line overrides its key.", default=SUPPRESS)
    known = {action.dest for action in parser._actions} - {"help", "config"}
    assert known.issuperset(defaults or ()), set(defaults or ()) - known
    try:
        changed = {**(defaults or {}), **recipe_defaults()}
        parser.set_defaults(**{name: value for name, value in changed.items() if name in known})
        recipe = _recipe(argv, known)
        namespace, rest = parser.parse_known_args(recipe + _translated(argv, known))
        if rest:
            raise ValueError(_unknown(rest[0], known))
        values = vars(namespace)
        return tuple(
            dtype(**{f.name: values[f.name] for f in dataclasses.fields(dtype) if f.name in values})
            for dtype in parser.dataclass_types
        )
    except ValueError as error:
        return parser.error(str(error))


def _recipe(argv: Sequence[str], known: set[str]) -> list[str]:
    """The flags that `--config FILE` stands for."""
    flags: list[str] = []
    for i, arg in enumerate(argv):
        if arg == "--config" and i + 1 < len(argv):
            flags += _read_recipe(argv[i + 1], known)
        elif arg.startswith("--config="):
            flags += _read_recipe(arg.split("=", 1)[1], known)
    return flags


def _read_recipe(path: str, known: set[str]) -> list[str]:
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config: cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"--config: {path} must hold `flag: value` lines")
    flags = []
    for name, value in recipe.items():
        if name == "mixed_precision":
            flags += _precision("no" if value in (None, False) else str(value))  # YAML reads no as False
            continue
        key = name if name in known else ALIASES.get(name, name)
        if key not in known:
            raise ValueError(f"--config: {path}: unknown key {key!r}{_nearest(str(key), known)}")
        if value is not None:
            flags += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def _translated(argv: Sequence[str], known: set[str]) -> list[str]:
    """The same words with the names of other recipes' flags replaced. Raises ValueError for an unknown precision."""
    words: list[str] = []
    for word in argv:
        name, equals, value = word[2:].partition("=") if word.startswith("--") else ("", "", word)
        if words[-1:] == ["--mixed_precision"]:
            words[-1:] = _precision(word)
        elif name == "mixed_precision" and equals:
            words += _precision(value)
        elif name == "resolution" and equals:
            words += [f"--{name}", _side(value)]
        elif words[-1:] == ["--resolution"]:
            words.append(_side(word))
        elif name in ALIASES and name not in known:
            words.append(f"--{ALIASES[name]}{equals}{value}")
        else:
            words.append(word)
    return words


def _side(value: str) -> str:
    """Of kohya's WIDTH,HEIGHT, where these are the same."""
    width, _, height = value.partition(",")
    if height and height != width:
        raise ValueError(
            f"--resolution {value}: pictures are squares, or of any shape of that size with --enable_bucket"
        )
    return width


def _precision(name: str) -> list[str]:
    if name not in _PRECISIONS:
        raise ValueError(f"--mixed_precision {name}: it must be one of {', '.join(_PRECISIONS)}")
    return _PRECISIONS[name]


def _unknown(arg: str, known: set[str]) -> str:
    if not arg.startswith("--"):
        return f"{arg!r} belongs to no flag"
    name = arg[2:].split("=")[0]
    return f"unknown flag --{name}{_nearest(name, known)}"


def _nearest(name: str, known: set[str]) -> str:
    if name in MEANINGLESS:
        return ": it is paddlenlp's and has no meaning in this trainer; leave it out"
    if name in ELSEWHERE:
        return f": {ELSEWHERE[name]}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
