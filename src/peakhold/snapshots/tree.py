"""A part's tree: its arrays taken out by name, the rest as strict JSON, and back.

JSON has no tuples, no integer keys, no NaN and no arrays. Each is an object with one member whose
name starts with `$`; a dict of the user's that has such a key is written as `$dict`, so nothing a
user saves can be mistaken for a mark of ours:

    {"$tensor": "layers/0/kernel"}     an array, by its name in the part's tensor file
    {"$tuple": [1, 2]}                 a tuple (a named tuple comes back as a plain one)
    {"$dict": [[0, "a"], [1, "b"]]}    a dict whose keys are not all plain strings
    {"$float": "NaN"}                  also "Infinity" and "-Infinity"
    {"$complex": [1.0, {"$float": "Infinity"}]}
    {"$bytes": "aGVsbG8="}             base64
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np

from peakhold._core.numbers import number_from_json, number_to_json
from peakhold.errors import InvalidArgumentError
from peakhold.snapshots.arrays import (
    ArraySource,
    NotStorableAtError,
    NotStorableError,
    source_of,
    sources_of,
)

__all__ = ["TreeError", "flatten", "parse_json", "to_json", "unflatten"]

_MAX_DEPTH: Final = (
    200  # deeper is a cycle or an attack; Python's own JSON parser allows about 1000
)
_RESERVED: Final = "__metadata__"  # safetensors' own key


class TreeError(ValueError):
    """A part's JSON that this module did not write."""


class _Flattener:
    """One walk over one part."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._met: list[tuple[str, Any, dict[str, str]]] = []
        """Path of each array, the array or its source, and the mark that will have its name."""
        self._array_kinds: set[type] = set()  # met before: a state has thousands of one type

    def refuse(self, path: str, value: Any, why: str = "", hint: str | None = None) -> Exception:
        return InvalidArgumentError.for_argument(
            f"parts[{self.part!r}] at {path or 'its root'!r}",
            value,
            "dicts, lists, tuples, arrays, numbers, strings, bytes and None"
            + (f" ({why})" if why else ""),
            hint=hint or "convert it to one of these, or leave it out.",
        )

    def unstorable(self, path: str, value: Any, why: NotStorableError) -> Exception:
        hint = None
        if "sparse" in str(why).lower():
            hint = "make it dense first (`.to_dense()`)."
        elif "key<" in str(why).lower() or "prng" in str(why).lower():
            hint = "save `jax.random.key_data(key)`."
        return self.refuse(path, type(value).__name__, str(why), hint)

    def sources(self) -> dict[str, ArraySource]:
        """Where the bytes of all arrays that were met are, by name; each mark gets its name."""
        try:
            found = sources_of([value for _, value, _ in self._met])
        except NotStorableAtError as error:
            path, value, _ = self._met[error.index]
            raise self.unstorable(path, value, error.why) from error.why
        named: dict[str, ArraySource] = {}
        names: dict[object, str] = {}
        for (path, _, mark), source in zip(self._met, found, strict=True):
            name = names.get(source.memory)
            if name is None:
                name = path or self.part
                if name in named or name == _RESERVED:
                    number = 2
                    while f"{name}#{number}" in named:
                        number += 1
                    name = f"{name}#{number}"
                names[source.memory] = name
                named[name] = source
            mark["$tensor"] = name
        return named

    def array(self, path: str, value: Any) -> dict[str, str]:
        mark: dict[str, str] = {}
        self._met.append((path, value, mark))
        return mark

    def visit(  # noqa: PLR0911 - one return for each kind of leaf
        self, value: Any, path: str, depth: int
    ) -> Any:
        kind = type(value)
        if kind in self._array_kinds:
            return self.array(path, value)
        if kind in (str, bool, int) or value is None:
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": number_to_json(value)}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        if depth > _MAX_DEPTH:
            raise self.refuse(
                path, kind.__name__, f"nested deeper than {_MAX_DEPTH}, or in a circle"
            )
        if isinstance(value, Mapping):
            return self.mapping(value, path, depth + 1)
        if isinstance(value, list):
            return self.items(value, path, depth + 1)
        if isinstance(value, tuple):
            return {"$tuple": self.items(value, path, depth + 1)}
        return self.leaf(value, path)

    def leaf(self, value: Any, path: str) -> Any:
        if isinstance(value, (np.str_, np.bytes_)):
            return self.visit(value.item(), path, 0)
        try:
            source = source_of(value)
        except NotStorableError as exc:
            raise self.unstorable(path, value, exc) from exc
        if source is not None:
            self._array_kinds.add(type(value))
            return self.array(path, source)
        if isinstance(value, complex):
            return {"$complex": [self.visit(x, path, 0) for x in (value.real, value.imag)]}
        for plain in (bool, int, float, str):
            if isinstance(value, plain):  # an IntEnum and its like: stored by value
                return self.visit(plain(value), path, 0)
        raise self.refuse(path, type(value).__name__)

    def items(self, values: Iterable[Any], path: str, depth: int) -> list[Any]:
        prefix = f"{path}/" if path else ""
        return [self.visit(value, f"{prefix}{i}", depth) for i, value in enumerate(values)]

    def mapping(self, values: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        prefix = f"{path}/" if path else ""
        plain = True
        children = []
        for key, value in values.items():
            if type(key) is not str:
                if not (key is None or isinstance(key, str | int | float | tuple)):
                    raise self.refuse(prefix + repr(key), key, "as a key")
                plain = False
            elif key.startswith("$"):
                plain = False
            children.append((key, self.visit(value, f"{prefix}{key}", depth)))
        if plain:
            return dict(children)
        return {"$dict": [[self.key(key, path), child] for key, child in children]}

    def key(self, key: Any, path: str) -> Any:
        if isinstance(key, tuple):
            return {"$tuple": [self.key(item, path) for item in key]}
        if key is None or isinstance(key, str | int | float):
            return self.visit(key, path, 0)
        raise self.refuse(path, key, "inside a tuple used as a key")


def flatten(part: str, tree: Any) -> tuple[Any, dict[str, ArraySource]]:
    """Take the arrays out of a tree.

    Args:
        part: Name of the part, for messages and for a tree that is one array.
        tree: Nested dicts, lists and tuples.

    Returns:
        What is left, ready for `to_json`; and the arrays by name, in the order met. An array that
        appears twice, or two tensors over the same memory, are one entry.

    Raises:
        InvalidArgumentError: If a leaf is none of the kinds that can be stored; its path is named.
    """
    walk = _Flattener(part)
    skeleton = walk.visit(tree, "", 0)
    return skeleton, walk.sources()


def to_json(skeleton: Any) -> bytes:
    """Encode what `flatten` left; ASCII, one line."""
    return json.dumps(skeleton, allow_nan=False, separators=(",", ":")).encode("ascii")


def _no_constant(text: str) -> Any:
    raise TreeError(f"{text} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise TreeError(f"the key {twice!r} is there twice")
    return members


def parse_json(data: bytes | memoryview) -> Any:
    """Parse strict JSON: no NaN, no duplicate keys, no depth that breaks the parser.

    Raises:
        TreeError: If it is not that; nothing else is raised, whatever the bytes.
    """
    try:
        return json.loads(
            str(data, "utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
    except TreeError:
        raise
    except RecursionError as exc:
        raise TreeError("it is nested too deeply") from exc
    except ValueError as exc:  # also bad UTF-8 and numbers of more than 4300 digits
        raise TreeError(f"it is not JSON ({exc})") from exc


def unflatten(skeleton: Any, tensor: Callable[[str], Any]) -> Any:
    """Put a tree together again.

    Args:
        skeleton: What `parse_json` gave.
        tensor: Gives the array for a name; a name that is met twice is asked for twice.

    Raises:
        TreeError: If a mark is not one of ours.
    """
    try:
        return _restore(skeleton, tensor, 0)
    except RecursionError as exc:  # the caller stands deep in the stack already
        raise TreeError("it is nested too deeply") from exc


def _restore(node: Any, tensor: Callable[[str], Any], depth: int) -> Any:
    if depth > 3 * _MAX_DEPTH:  # a tuple is two levels of JSON, a `$dict` three
        raise TreeError("it is nested too deeply")
    if isinstance(node, list):
        return [_restore(item, tensor, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    if len(node) == 1:
        ((mark, body),) = node.items()
        if mark.startswith("$"):
            return _marked(mark, body, tensor, depth)
    elif any(key.startswith("$") for key in node):
        raise TreeError("a mark stands among other keys")
    return {key: _restore(value, tensor, depth + 1) for key, value in node.items()}


def _marked(mark: str, body: Any, tensor: Callable[[str], Any], depth: int) -> Any:
    if mark == "$tensor" and isinstance(body, str):
        return tensor(body)
    if mark == "$tuple" and isinstance(body, list):
        return tuple(_restore(item, tensor, depth + 1) for item in body)
    if mark == "$float" and isinstance(body, str):
        number = number_from_json(body)
        if isinstance(number, float):
            return number
    if mark == "$complex" and isinstance(body, list) and len(body) == 2:
        real, imag = (_restore(item, tensor, depth + 1) for item in body)
        if isinstance(real, float) and isinstance(imag, float):
            return complex(real, imag)
    if mark == "$bytes" and isinstance(body, str):
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error as exc:
            raise TreeError("a `$bytes` is not base64") from exc
    if mark == "$dict" and isinstance(body, list):
        return _keyed(body, tensor, depth)
    raise TreeError(f"the mark {mark!r} is unknown or holds the wrong thing")


def _keyed(pairs: list[Any], tensor: Callable[[str], Any], depth: int) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2):
            raise TreeError("a `$dict` holds something else than pairs")
        key = _restore(pair[0], tensor, depth + 1)
        try:
            if key in result:
                raise TreeError(f"the key {key!r} is there twice")
        except TypeError as exc:
            raise TreeError("a `$dict` has a key that cannot be one") from exc
        result[key] = _restore(pair[1], tensor, depth + 1)
    return result
