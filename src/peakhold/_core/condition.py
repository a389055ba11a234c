"""Conditions over metrics, as people write them: `val_accuracy > 0.92 and epoch >= 3`.

Rules of this file:

1. Never evaluated as code. Python's parser reads the text; what is not on the short list below is
   an error with its position, before the first batch. Nothing can be called, indexed, looked up.
2. Three values. A metric that is not logged is "not yet", and so is whatever depends on it:
   `missing or true` is true, `missing and false` is false, all else stays open.
3. A value that is not a number (NaN) satisfies no comparison, not even `!=`. A division by zero is
   such a value. Nothing here raises once the text is parsed.
4. What is asked must be a question: `loss + 1` has no answer, and `loss` alone is no condition.

Allowed: metrics by name (between backticks if the name is no Python name), numbers, `+ - * /`,
`< <= > >= == !=` (chained, too), `and`, `or`, `not`, parentheses.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

__all__ = ["Condition", "ConditionError"]

Node: TypeAlias = tuple[Any, ...]
"""A word and its parts: `("number", x)`, `("metric", name)`, `("minus", a)`, `("+", a, b)`,
`("compare", functions, nodes)`, `("not", a)`, `("and", nodes)`."""

_LONGEST = 1000  # characters
_DEEPEST = 50  # levels: a walk through a condition never meets Python's own limit

_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}


class ConditionError(ValueError):
    """The text is no condition.

    Args:
        reason: What is wrong, in a few words.
        position: Where, in characters from 1.
        hint: What to write instead.
    """

    def __init__(self, reason: str, position: int, hint: str) -> None:
        super().__init__(f"{reason} at character {position}")
        self.reason, self.position, self.hint = reason, position, hint


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition; build it with `Condition.parse`.

    Example:
        >>> condition = Condition.parse("val_accuracy > 0.92 and epoch >= 3")
        >>> condition.names
        ('val_accuracy', 'epoch')
        >>> condition.holds({"val_accuracy": 0.95, "epoch": 3})
        True
        >>> condition.holds({"epoch": 3}) is None, condition.holds({"epoch": 2})
        (True, False)
    """

    text: str
    root: Node
    names: tuple[str, ...]
    """The metrics it looks at, in order of appearance."""

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            ConditionError: If it is none; says where.
        """
        parser = _Parser(text)
        return cls(text, parser.read(), tuple(dict.fromkeys(parser.names)))

    def holds(self, values: Mapping[str, float | None]) -> bool | None:
        """Whether it is true; None is "not yet".

        Args:
            values: Numbers by name; what is missing or None is not there.
        """
        return _truth(self.root, values)


@final
class _Parser:
    """From text to nodes."""

    def __init__(self, text: str) -> None:
        self.names: list[str] = []
        self._text = text
        self._quoted: dict[int, str] = {}

    def read(self) -> Node:
        if len(self._text) > _LONGEST:
            raise ConditionError(
                f"more than {_LONGEST} characters", _LONGEST, "pass a function: when(epoch, logs)."
            )
        # Everything stays where it is: positions in the plain text are positions in the user's.
        # A name in backticks becomes underscores; what touches it would be read as part of it.
        plain = re.sub(r"(?<!\w)`([^`]+)`(?!\w)", self._plain_name, self._text)
        stray = re.search(r"[^\s\w<>=!+\-*/().,]", plain)
        if stray:
            raise ConditionError(f"no place for {stray[0]!r}", stray.start() + 1, _hint(stray[0]))
        self._plain = re.sub(r"\s", " ", plain)
        self._indent = len(self._plain) - len(self._plain.lstrip())
        try:
            tree = ast.parse(self._plain.strip(), mode="eval")
        except SyntaxError as error:
            end = len(self._text) + 1
            where = min(self._indent + error.offset, end) if error.offset else end
            raise ConditionError("no condition", where, _hint(self._text)) from None
        except (ValueError, MemoryError, RecursionError):  # nested too deep
            raise ConditionError("no condition", 1, _hint("")) from None
        level: list[ast.AST] = [tree.body]
        for _ in range(_DEEPEST):
            level = [child for node in level for child in ast.iter_child_nodes(node)]
        if level:
            raise ConditionError("too many levels", 1, "pass a function: when(epoch, logs).")
        return self._question(tree.body)

    def _plain_name(self, match: re.Match[str]) -> str:
        self._quoted[match.start()] = match[1]
        return "_" * len(match[0])

    def _place(self, node: ast.expr) -> int:
        """Index of a node's first character in the text; the parser counts bytes."""
        line = self._plain.strip().encode()
        return len(line[: node.col_offset].decode()) + self._indent

    def _wrong(self, node: ast.expr, reason: str, hint: str) -> ConditionError:
        return ConditionError(reason, self._place(node) + 1, hint)

    def _question(self, node: ast.expr) -> Node:
        """What is true or false."""
        match node:
            case ast.BoolOp(joint, values):
                word = "and" if isinstance(joint, ast.And) else "or"
                return (word, tuple(map(self._question, values)))
            case ast.UnaryOp(ast.Not(), operand):
                return ("not", self._question(operand))
            case ast.Compare(left, ops, comparators):
                for op, right in zip(ops, comparators, strict=True):
                    if type(op) not in _COMPARISONS:
                        raise self._wrong(
                            right, "no comparison of numbers before this", "use < <= > >= == !=."
                        )
                operands = tuple(map(self._number, [left, *comparators]))
                return ("compare", tuple(_COMPARISONS[type(op)] for op in ops), operands)
            case ast.Name() | ast.BinOp() | ast.UnaryOp() | ast.Constant():
                self._number(node)
                raise self._wrong(
                    node, "a value that is compared with nothing", "write 'val_loss < 0.1'."
                )
        raise self._not_allowed(node)

    def _number(self, node: ast.expr) -> Node:
        """What has a value."""
        match node:
            case ast.Name():
                return self._metric(node)
            case ast.Constant(int() | float() as value) if not isinstance(value, bool):
                try:
                    return ("number", float(value))
                except OverflowError:
                    return ("number", math.inf)
            case ast.UnaryOp(ast.USub(), operand):
                return ("minus", self._number(operand))
            case ast.UnaryOp(ast.UAdd(), operand):
                return self._number(operand)
            case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
                return (_ARITHMETIC[type(op)], self._number(left), self._number(right))
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp(ast.Not()):
                raise self._wrong(
                    node, "an answer where a number belongs", "join questions with and, or, not."
                )
        raise self._not_allowed(node)

    def _metric(self, node: ast.Name) -> Node:
        start = self._place(node)
        # As written: Python takes some letters for others that look alike.
        written = re.compile(r"\w+").match(self._plain, start)
        name = self._quoted.get(start, written[0] if written else node.id)
        self.names.append(name)
        return ("metric", name)

    def _not_allowed(self, node: ast.expr) -> ConditionError:
        return self._wrong(
            node,
            "something that is neither metric, number nor comparison",
            "use + - * / < <= > >= == != and or not, or pass a function: when(epoch, logs).",
        )


def _hint(text: str) -> str:
    if "'" in text or '"' in text:
        return "a metric's name needs no quotes; if it is no Python name, write `name`."
    if "&" in text or "|" in text or "!" in text.replace("!=", ""):
        return "write and, or, not."
    if re.search(r"(?<![=<>!])=(?!=)", text):
        return "write == to compare."
    return "write something like 'val_accuracy > 0.92 and epoch >= 3'."


def _value(node: Node, values: Mapping[str, float | None]) -> float | None:
    match node:
        case ("number", value):
            return float(value)
        case ("metric", name):
            return values.get(name)
        case ("minus", a):
            x = _value(a, values)
            return None if x is None else -x
    word, left, right = node
    x, y = _value(left, values), _value(right, values)
    if x is None or y is None:
        return None
    if word == "/":
        return x / y if y else math.nan
    return x + y if word == "+" else x - y if word == "-" else x * y


def _truth(node: Node, values: Mapping[str, float | None]) -> bool | None:
    match node:
        case ("not", a):
            answer = _truth(a, values)
            return None if answer is None else not answer
        case ("compare", ops, operands):
            numbers = [_value(operand, values) for operand in operands]
            return _all(
                None if x is None or y is None else _compare(op, x, y)
                for op, x, y in zip(ops, numbers, numbers[1:], strict=False)
            )
    word, parts = node
    answers = (_truth(part, values) for part in parts)
    if word == "and":
        return _all(answers)
    inverse = _all(None if answer is None else not answer for answer in answers)
    return None if inverse is None else not inverse


def _compare(op: Callable[[float, float], bool], x: float, y: float) -> bool:
    return not (math.isnan(x) or math.isnan(y)) and op(x, y)


def _all(answers: Any) -> bool | None:
    """False if one is false, else None if one is open, else True."""
    open_ = False
    for answer in answers:
        if answer is False:
            return False
        open_ = open_ or answer is None
    return None if open_ else True
