"""Conditions on named values, written like Python's: parsed by `ast`, compiled to closures, never evaluated as code.

Every part of an expression has a kind, which is known before any record is read: a number, a text, a condition, or a
column, of which only a record says what it holds. So a condition that makes no sense is an error at once.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ppsd.data.columns import Column, Lookup, as_list_or_text, as_number, as_text, as_truth

MAX_CHARACTERS = 2000
MAX_DEPTH = 50
NUMBER, TEXT, TRUTH, COLUMN, NONE, LIST = "a number", "a text", "a condition", "a column", "None", "a list"

Get = Callable[[Lookup], Any]

ALLOWED = (
    "allowed are names, numbers, 'texts', True, False, None, lists of numbers or texts after in,"
    " and, or, not, < <= > >= == != in, + - * / % and parentheses"
)
_ORDER = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_EQUAL = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
_NONE = {ast.Eq: True, ast.Is: True, ast.NotEq: False, ast.IsNot: False}
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Term:
    """One of the conditions that must all hold: as written, the names in it, and whether it holds for some values."""

    text: str
    names: tuple[str, ...]
    holds: Callable[[Lookup], bool]


@dataclass(frozen=True)
class _Part:
    """A compiled piece of an expression. kind LIST: `get` gives a list, whose elements are of kind `elements`."""

    kind: str
    get: Get
    elements: str = ""


def parse_terms(text: str, kinds: Mapping[str, str]) -> list[Term]:
    """The conditions that `text` joins by `and`. kinds: those of the known names; every other name is a column.

    Raises ValueError naming --filter, the place and what is allowed.
    """
    compiler = _Compiler(text, kinds)
    return [Term(compiler.source(node), _names(node), compiler.truth(node)) for node in _conjuncts(compiler.tree)]


def _conjuncts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [term for value in node.values for term in _conjuncts(value)]
    return [node]


def _names(node: ast.expr) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.id for part in ast.walk(node) if isinstance(part, ast.Name)))


def _parse(text: str) -> ast.expr:
    """Raises ValueError; its message says what is wrong and where."""
    if len(text) > MAX_CHARACTERS or "\n" in text or "\r" in text:
        raise ValueError(f"expected one line of at most {MAX_CHARACTERS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts with a backslash
            tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"at character {error.offset or 1}: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("too deeply nested") from error
    level: Sequence[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return tree


class _Compiler:
    """Turns nodes of `tree` into closures."""

    def __init__(self, text: str, kinds: Mapping[str, str]) -> None:
        self._text, self._kinds = text.strip(), kinds
        try:
            self.tree = _parse(self._text)
        except ValueError as error:
            raise ValueError(f"--filter {self._text[:200]!r}: {error}; {ALLOWED}") from None

    def source(self, node: ast.expr) -> str:
        return " ".join((ast.get_source_segment(self._text, node) or "").split())

    def truth(self, node: ast.expr) -> Callable[[Lookup], bool]:
        """Whether `node`, as Python sees it, is true."""
        part = self._compile(node)
        get = part.get
        if part.kind in (NONE, LIST):
            raise self._error(node, f"{part.kind} is not a condition")
        return (lambda values: as_truth(get(values))) if part.kind == COLUMN else (lambda values: bool(get(values)))

    def _error(self, node: ast.expr, message: str) -> ValueError:
        place = len(self._text.encode()[: node.col_offset].decode()) + 1
        where = f"at character {place}, {self.source(node)[:60]!r}"
        return ValueError(f"--filter {self._text[:200]!r}: {where}: {message}; {ALLOWED}")

    def _compile(self, node: ast.expr) -> _Part:
        compile_node = {
            ast.Name: self._name,
            ast.Constant: self._constant,
            ast.BoolOp: self._bool_op,
            ast.UnaryOp: self._unary,
            ast.BinOp: self._arithmetic,
            ast.Compare: self._compare,
            ast.List: self._list,
            ast.Tuple: self._list,
            ast.Set: self._list,
        }.get(type(node))
        if compile_node is None:
            raise self._error(node, "not part of the language of filters")
        return compile_node(node)

    def _name(self, node: Any) -> _Part:
        name = node.id
        if name in self._kinds:
            return _Part(self._kinds[name], lambda values: values[name])
        return _Part(COLUMN, lambda values: Column(name, values[name]))

    def _constant(self, node: Any) -> _Part:
        value = node.value
        kinds = {bool: TRUTH, int: NUMBER, float: NUMBER, str: TEXT, type(None): NONE}
        if type(value) not in kinds:
            raise self._error(node, "not a number or a text")
        return _Part(kinds[type(value)], lambda values: value)

    def _bool_op(self, node: Any) -> _Part:
        parts = [self.truth(value) for value in node.values]
        every = all if isinstance(node.op, ast.And) else any
        return _Part(TRUTH, lambda values: every(part(values) for part in parts))

    def _unary(self, node: Any) -> _Part:
        if isinstance(node.op, ast.Not):
            holds = self.truth(node.operand)
            return _Part(TRUTH, lambda values: not holds(values))
        if isinstance(node.op, ast.Invert):
            raise self._error(node, "~ is not part of the language of filters")
        get = self._number(node.operand, self._compile(node.operand))
        return _Part(NUMBER, (lambda values: -get(values)) if isinstance(node.op, ast.USub) else get)

    def _arithmetic(self, node: Any) -> _Part:
        function = _ARITHMETIC.get(type(node.op))
        if function is None:
            raise self._error(node, "this operator is not part of the language of filters")
        left, right = (self._number(side, self._compile(side)) for side in (node.left, node.right))
        return _Part(NUMBER, lambda values: function(left(values), right(values)))

    def _list(self, node: Any) -> _Part:
        parts = [self._compile(element) for element in node.elts]
        kinds = {part.kind for part in parts}
        if kinds not in ({NUMBER}, {TEXT}) or any(_names(element) for element in node.elts):
            raise self._error(node, "expected numbers only or texts only in a list")
        return _Part(LIST, lambda values: [part.get(values) for part in parts], kinds.pop())

    def _number(self, node: ast.expr, part: _Part) -> Get:
        get = part.get
        if part.kind == COLUMN:
            return lambda values: as_number(get(values))
        if part.kind != NUMBER:
            raise self._error(node, f"is {part.kind} where a number is needed")
        return get

    def _text_of(self, node: ast.expr, part: _Part) -> Get:
        get = part.get
        if part.kind not in (TEXT, COLUMN):
            raise self._error(node, f"is {part.kind} where a text is needed")
        return (lambda values: as_text(get(values))) if part.kind == COLUMN else get

    def _compare(self, node: Any) -> _Part:
        """`a < b < c` is `a < b and b < c`."""
        sides = [(side, self._compile(side)) for side in (node.left, *node.comparators)]
        pairs = [self._pair(node, op, *sides[i], *sides[i + 1]) for i, op in enumerate(node.ops)]
        return _Part(TRUTH, lambda values: all(pair(values) for pair in pairs))

    def _pair(self, node: ast.expr, op: ast.cmpop, left: ast.expr, a: _Part, right: ast.expr, b: _Part) -> Get:
        if NONE in (a.kind, b.kind):
            return self._is_none(node, op, a, b)
        if isinstance(op, (ast.In, ast.NotIn)):
            inside = self._inside(node, left, a, right, b)
            return inside if isinstance(op, ast.In) else lambda values: not inside(values)
        function = _EQUAL.get(type(op)) or _ORDER.get(type(op))
        if function is None:
            raise self._error(node, "is and is not are for None; use == and !=")
        if TRUTH in (a.kind, b.kind):
            if type(op) in _ORDER or {a.kind, b.kind} - {TRUTH, COLUMN}:
                raise self._error(node, "a condition can only be == or != another condition")
            x, y = self.truth(left), self.truth(right)
        elif {a.kind, b.kind} == {TEXT, NUMBER}:
            raise self._error(node, "compares a text with a number (caption_length counts the characters of caption)")
        else:
            cast = self._text_of if TEXT in (a.kind, b.kind) else self._number
            x, y = cast(left, a), cast(right, b)
        return lambda values: function(x(values), y(values))

    def _is_none(self, node: ast.expr, op: ast.cmpop, a: _Part, b: _Part) -> Get:
        """Whether a record lacks a column; the one question that a record without it can answer."""
        wanted = _NONE.get(type(op))
        column = a if b.kind == NONE else b
        if wanted is None or column.kind != COLUMN:
            raise self._error(node, "only whether a column == None or != None can be asked")
        get = column.get
        return lambda values: (get(values).value is None) is wanted

    def _inside(self, node: ast.expr, left: ast.expr, a: _Part, right: ast.expr, b: _Part) -> Get:
        if b.kind == LIST:
            cast = self._text_of if b.elements == TEXT else self._number
            x, elements = cast(left, a), b.get
        elif b.kind in (TEXT, COLUMN):
            x, whole = self._text_of(left, a), b.get
            elements = whole if b.kind == TEXT else lambda values: as_list_or_text(whole(values))
        else:
            raise self._error(node, f"expected a text or a list after in, not {b.kind}")
        return lambda values: x(values) in elements(values)
