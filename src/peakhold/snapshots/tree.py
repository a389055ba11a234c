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
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from peakhold._core.numbers import number_from_json, number_to_json
from peakhold.errors import InvalidArgumentError
from peakhold.host.torch_tensors import UnreadableError, readable
from peakhold.snapshots.arrays import (
    ArraySource,
    NotStorableAtError,
    NotStorableError,
    source_of,
    sources_of,
)
from peakhold.trees import DEEPEST, TooDeepError, fold, is_container, is_named, library_of, map_tree

__all__ = [
    "Flattener",
    "TreeError",
    "check_storable",
    "flatten",
    "parse_json",
    "to_json",
    "unflatten",
]

T = TypeVar("T")

_MAX_INT_BITS: Final = 14_284  # what 4,300 digits can hold, Python's limit for parsing one
_RESERVED: Final = "__metadata__"  # safetensors' own key


class TreeError(ValueError):
    """A part's JSON that this module did not write."""


class Flattener:
    """One walk over one part: `leaf` makes JSON of each leaf, `join` of a container's."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._met: list[tuple[str, Any, dict[str, str]]] = []
        """Path of each array, the array or its source, and the mark that will have its name."""
        self._array_kinds: set[type] = set()  # met before: a state has thousands of one type
        # A lazy mapping keeps none of what it gives: what died would lend its address, by which
        # arrays are told apart, to the next.
        self._values: list[Any] = []
        self.found: list[ArraySource] = []
        """Where the bytes of each array are that was met, in order."""
        self.is_rearranged = False
        """Whether a tensor was taken apart into several arrays."""

    @property
    def n_met(self) -> int:
        """How many arrays have been met."""
        return len(self._met)

    def flatten(self, tree: Any) -> tuple[Any, dict[str, ArraySource]]:
        """See the function of this name."""
        try:
            skeleton = self.walk(tree)
        except TooDeepError as exc:
            why = f"nested deeper than {DEEPEST}, or in a circle"
            raise self.refuse(exc.path, exc.kind, why) from None
        return skeleton, self.sources()

    def walk(self, tree: Any) -> Any:
        """What is left of a tree without its arrays."""
        return fold(tree, self.leaf, self.join)

    def refuse(self, path: str, value: Any, why: str = "", hint: str | None = None) -> Exception:
        """The error for a leaf or key that cannot be stored."""
        return InvalidArgumentError.for_argument(
            f"parts[{self.part!r}] at {path or 'its root'!r}",
            value,
            "dicts, lists, tuples, arrays, numbers, strings, bytes and None"
            + (f" ({why})" if why else ""),
            hint=hint or "convert it to one of these, or leave it out.",
        )

    def unstorable(self, path: str, value: Any, why: NotStorableError) -> Exception:
        """The error for an array whose bytes cannot be had."""
        hint = None
        if "key<" in str(why).lower() or "prng" in str(why).lower():
            hint = "save `jax.random.key_data(key)`."
        return self.refuse(path, type(value).__name__, str(why), hint)

    def sources(self) -> dict[str, ArraySource]:
        """Where the bytes of all arrays that were met are, by name; each mark gets its name."""
        try:
            self.found = sources_of([value for _, value, _ in self._met])
        except NotStorableAtError as error:
            path, value, _ = self._met[error.index]
            if not self.take_sparse_apart():
                raise self.unstorable(path, value, error.why) from error.why
            return self.sources()
        named: dict[str, ArraySource] = {}
        names: dict[object, str] = {}
        for (path, _, mark), source in zip(self._met, self.found, strict=True):
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

    def take_sparse_apart(self) -> bool:
        """Put parts in the place of the tensors of PyTorch that need it; whether there were any."""
        met, self._met = self._met, []
        self.is_rearranged, found = True, False
        for path, value, mark in met:
            other = self.other_form(path, value) if library_of(value) == "torch" else value
            if other is value:
                self._met.append((path, value, mark))
            else:
                found = True
                mark.update(fold(other, self.leaf, self.join, path=path))
        return found

    def other_form(self, path: str, tensor: Any) -> Any:
        """The arrays that a tensor of PyTorch is stored as, or itself."""
        try:
            other = readable(tensor)
        except UnreadableError as exc:
            raise self.refuse(path, type(tensor).__name__, str(exc), exc.hint) from exc
        return other if is_container(other) else tensor

    def met(self, path: str, value: Any) -> dict[str, str]:
        """The mark of an array; it has no name yet."""
        mark: dict[str, str] = {}
        self._met.append((path, value, mark))
        return mark

    def leaf(self, value: Any, path: str) -> Any:  # noqa: PLR0911 - one for each kind
        """A leaf as JSON."""
        kind = type(value)
        if kind in self._array_kinds:
            return self.met(path, value)
        if kind in (str, bool) or value is None:
            return value
        if kind is int:
            return value if value.bit_length() <= _MAX_INT_BITS else self.integer(value, path)
        if kind is float:
            return value if math.isfinite(value) else {"$float": number_to_json(value)}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        if isinstance(value, (np.str_, np.bytes_)):
            return self.leaf(value.item(), path)
        return self.array(value, path)

    def array(self, value: Any, path: str) -> Any:
        """A leaf that may be an array, as JSON."""
        try:
            source = source_of(value)
        except NotStorableError as exc:
            if library_of(value) == "torch" and self.other_form(path, value) is not value:
                return self.met(path, value)
            raise self.unstorable(path, value, exc) from exc
        if source is not None:
            self._array_kinds.add(type(value))
            self._values.append(value)
            return self.met(path, source)
        if isinstance(value, complex):
            return {"$complex": [self.leaf(x, path) for x in (value.real, value.imag)]}
        plain = _plain(value)
        if plain is not value:
            return self.leaf(plain, path)
        raise self.refuse(path, type(value).__name__)

    def integer(self, value: int, path: str) -> int:
        """The number, if JSON can hold it."""
        if value.bit_length() > _MAX_INT_BITS:
            raise self.refuse(
                path,
                f"an int of {value.bit_length():,} bits",
                "Python reads at most 4,300 digits",
                "save it as bytes, or as a string of hexadecimal digits.",
            )
        return value

    def join(self, container: Any, keys: Sequence[Any], children: list[Any], path: str) -> Any:
        """A container as JSON."""
        names = self.names(container, keys, path)
        return self.put_together(names, children, is_tuple=isinstance(container, tuple))

    def names(self, container: Any, keys: Sequence[Any], path: str) -> Sequence[Any] | None:
        """The keys that `load` will give; None if they are no more than an order."""
        kind = type(container)  # asked without a call where that tells
        if kind is list or kind is tuple or not (kind is dict or is_named(container)):
            return None
        are_plain = all(type(key) is str for key in keys)
        if not are_plain:
            keys = [self.key(key, path) for key in keys]
        if (not are_plain or type(container) is not dict) and len(set(keys)) < len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise self.refuse(
                f"{path}/{twice}" if path else str(twice), twice, "the same key twice"
            )
        return keys

    def put_together(
        self, names: Sequence[Any] | None, children: list[Any], *, is_tuple: bool
    ) -> Any:
        """A container of these names as JSON."""
        if names is None:
            return {"$tuple": children} if is_tuple else children
        if all(type(key) is str and not key.startswith("$") for key in names):
            return dict(zip(names, children, strict=True))
        pairs = zip(names, children, strict=True)
        return {"$dict": [[self.written(key), child] for key, child in pairs]}

    def written(self, key: Any) -> Any:
        """A key as JSON."""
        # A tuple is the only container that there is in a key.
        return fold(key, self.leaf, lambda _, __, children, ___: {"$tuple": children})

    def key(self, key: Any, path: str) -> Any:
        """The key that `load` will give, of Python's own types."""
        at = f"{path}/{_shown(key)}" if path else _shown(key)
        if not isinstance(key, tuple):
            return self.key_leaf(key, at)
        return fold(key, self.key_leaf, self.key_tuple, path=at)

    def key_leaf(self, key: Any, path: str) -> Any:
        """A key, or what is in it, of Python's own types."""
        if key is not None and not isinstance(key, str | int | float):
            raise self.refuse(path, key, "as a key")
        key = _plain(key)
        if key != key:  # noqa: PLR0124 - NaN
            raise self.refuse(path, key, "as a key: nobody could look it up")
        return self.integer(key, path) if type(key) is int else key

    def key_tuple(self, key: Any, keys: Sequence[Any], children: list[Any], path: str) -> Any:
        """A key that is a tuple."""
        if isinstance(key, tuple):
            return tuple(children)
        raise self.refuse(path, key, "as a key")


def _shown(key: Any) -> str:
    try:
        return repr(key)
    except ValueError:  # an int of more than 4,300 digits
        return "a huge int"


def _plain(value: Any) -> Any:
    """The plain value of an IntEnum, `np.float64`, `np.str_` and their like; else itself."""
    if isinstance(value, bool) or value is None or type(value) in (int, float, str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    # Not `str(value)`: of an Enum that is its name.
    return str.__str__(value) if isinstance(value, str) else value


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
    return Flattener(part).flatten(tree)


def check_storable(parts: Mapping[str, Any]) -> None:
    """Raise now what saving these parts would raise for them as they are.

    Args:
        parts: What a host lent, by name. Tensors of PyTorch have been looked at there, and are not
            fetched from their device for this.

    Raises:
        InvalidArgumentError: As `flatten`.
    """
    for part, tree in parts.items():
        flatten(part, map_tree(tree, lambda leaf: None if library_of(leaf) == "torch" else leaf))


def to_json(skeleton: Any) -> bytes:
    """Encode what `flatten` left; ASCII, one line."""
    return json.dumps(skeleton, allow_nan=False, separators=(",", ":")).encode("ascii")


def _no_constant(text: str) -> Any:
    raise TreeError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # `1e400`: written by nobody, who has words for infinities
        raise TreeError(f"{text:.30} is no number that a float can hold")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise TreeError(f"the key {twice!r:.100} is there twice")
    return members


def _with_room(work: Callable[[], T]) -> T:
    """Call what recurses; if the caller stands too deep in the stack, on a stack of its own.

    Recursion has a limit that the caller may have used up, which says nothing of what is read.

    Raises:
        TreeError: If that is not enough either.
    """
    try:
        return work()
    except RecursionError:
        pass
    found: list[T] = []
    errors: list[BaseException] = []

    def again() -> None:
        try:
            found.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=again, name="peakhold-parse")
    thread.start()
    thread.join()
    for error in errors:
        if isinstance(error, RecursionError):
            raise TreeError("it is nested too deeply") from None
        raise error
    return found[0]


def parse_json(data: bytes | memoryview) -> Any:
    """Parse strict JSON: no NaN, no duplicate keys, no depth that breaks the parser.

    Raises:
        TreeError: If it is not that; nothing else is raised, whatever the bytes.
    """

    def parse() -> Any:
        return json.loads(
            str(data, "utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_no_duplicates,
        )

    try:
        return _with_room(parse)
    except TreeError:
        raise
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
    walk = _Restorer(tensor)

    def restore() -> Any:
        # A tuple is two levels of JSON, a `$dict` three.
        return fold(skeleton, walk.leaf, walk.join, is_leaf=_is_tensor, deepest=3 * DEEPEST)

    try:
        return _with_room(restore)
    except TooDeepError as exc:
        raise TreeError("it is nested too deeply") from exc


def _is_tensor(node: Any) -> bool:
    return isinstance(node, dict) and len(node) == 1 and isinstance(node.get("$tensor"), str)


class _Restorer:
    """One walk over JSON, from its leaves upwards."""

    def __init__(self, tensor: Callable[[str], Any]) -> None:
        self._tensor = tensor

    def leaf(self, value: Any, path: str) -> Any:
        return self._tensor(value["$tensor"]) if isinstance(value, dict) else value

    def join(self, node: Any, keys: Sequence[Any], children: list[Any], path: str) -> Any:
        if isinstance(node, list):
            return children
        if not any(key.startswith("$") for key in keys):
            return dict(zip(keys, children, strict=True))
        if len(keys) > 1:
            raise TreeError("a mark stands among other keys")
        return self.marked(keys[0], node[keys[0]], children[0])

    def marked(self, mark: str, body: Any, restored: Any) -> Any:
        """What a mark stands for: its body as it is in the JSON, and with its own marks undone."""
        if mark == "$tuple" and isinstance(body, list):
            return tuple(restored)
        if mark == "$float" and isinstance(body, str):
            number = number_from_json(body)
            if isinstance(number, float):
                return number
        if mark == "$complex" and isinstance(body, list) and len(body) == 2:
            real, imag = restored
            if isinstance(real, float) and isinstance(imag, float):
                return complex(real, imag)
        if mark == "$bytes" and isinstance(body, str):
            try:
                return base64.b64decode(body, validate=True)
            except binascii.Error as exc:
                raise TreeError("a `$bytes` is not base64") from exc
        if mark == "$dict" and isinstance(body, list):
            return _keyed(body, restored)
        raise TreeError(f"the mark {mark!r:.100} is unknown or holds the wrong thing")


def _is_key(key: Any) -> bool:
    is_key: bool = fold(
        key,
        lambda one, _: one is None or isinstance(one, str | int | float),
        lambda one, _, are_keys, __: isinstance(one, tuple) and all(are_keys),
    )
    return is_key


def _keyed(pairs: list[Any], restored: list[Any]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for pair, whole in zip(pairs, restored, strict=True):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise TreeError("a `$dict` holds something else than pairs")
        key, value = whole
        if not _is_key(key):
            raise TreeError("a `$dict` has a key that cannot be one")
        if key in result:
            raise TreeError(f"the key {key!r:.100} is there twice")
        result[key] = value
    return result
