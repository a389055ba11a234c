"""What the source of a tree says about itself: counted over syntax trees, nothing is imported.

Each function takes the folder that holds `peakhold`, of this tree or of an older one, and returns
what it found by name, so that whoever doubts a figure can look.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

__all__ = [
    "circles",
    "nan_codecs",
    "private_handlers",
    "retentions",
    "snapshot_engines",
    "step_counters",
    "step_signatures",
    "tree_walkers",
    "type_circles",
    "ways_back",
]

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_FINITE: Final = {"isnan", "isfinite", "is_finite"}
_CONTAINERS: Final = {"dict", "Mapping", "list", "tuple", "MutableMapping"}
_COUNTER: Final = re.compile(r"_?(n_|test_|train_)*(steps?|batch(es)?)(_done|_seen)?")


@cache
def _modules(src: Path) -> Mapping[str, ast.Module]:
    """All modules by dotted name; those that are shipped to test others are no part of a run."""
    return {
        ".".join(path.relative_to(src).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(src.joinpath("peakhold").rglob("*.py"))
        if "testing" not in path.parts
    }


def _functions(src: Path) -> Iterator[tuple[str, Function]]:
    """Every function and method, named as `module:Class.name` or `module:name`."""
    for module, tree in _modules(src).items():
        yield from _inside(tree, f"{module.removeprefix('peakhold.')}:")


def _inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield f"{prefix}{child.name}", child
            yield from _inside(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _inside(child, f"{prefix}{child.name}.")
        else:
            yield from _inside(child, prefix)


def _called(node: ast.AST) -> Iterator[str]:
    """The last word of whatever is called somewhere in a node."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            if isinstance(call.func, ast.Name):
                yield call.func.id
            elif isinstance(call.func, ast.Attribute):
                yield call.func.attr


def _words(node: ast.AST) -> set[str]:
    """The names and attributes in a node."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} | {
        one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)
    }


# What there is to know to write or read a callback


def step_signatures(src: Path) -> list[str]:
    """Parameters of the methods `step` in the core: all but the state, which is each one's own."""
    found = set()
    for name, function in _functions(src):
        if name.startswith("_core.") and function.name == "step":
            parameters = [
                one for one in (*function.args.args, *function.args.kwonlyargs)
                if one.arg not in {"self", "state"}
            ]  # fmt: skip
            found.add(", ".join(ast.unparse(one) for one in parameters))
    return sorted(found)


def private_handlers(src: Path) -> list[str]:
    """Methods with an underscore that the class `Participant` has: what a stranger overrides."""
    return sorted(
        node.name
        for tree in _modules(src).values()
        for cls in ast.walk(tree)
        if isinstance(cls, ast.ClassDef) and cls.name == "Participant"
        for node in cls.body
        if isinstance(node, Function) and re.fullmatch(r"_[a-z]\w*", node.name)
    )


# How often there is one of a thing


def snapshot_engines(src: Path) -> list[str]:
    """Modules that allocate memory for copies."""
    return [name for name, tree in _modules(src).items() if "allocate" in _called(tree)]


def nan_codecs(src: Path) -> list[str]:
    """Functions that write something else in the place of a number that is not finite."""
    return [name for name, function in _functions(src) if any(map(_replaces_nan, _own(function)))]


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions in it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*Function.__args__, ast.ClassDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))


def _replaces_nan(node: ast.AST) -> bool:
    if isinstance(node, ast.IfExp) and _asks_finite(node.test):
        values = [node.body, node.orelse]
        # A text around the number, or instead of it both ways, is for people.
        return sum(map(_is_substitute, values)) == 1 and not any(
            isinstance(one, ast.JoinedStr) for one in values
        )
    if isinstance(node, ast.If) and _asks_finite(node.test) and len(node.body) == 1:
        (only,) = node.body
        return (
            isinstance(only, (ast.Return, ast.Assign))
            and only.value is not None
            and _is_substitute(only.value)
            and not (isinstance(only, ast.Return) and _is_none(only.value))
        )
    return False


def _asks_finite(test: ast.AST) -> bool:
    return not _FINITE.isdisjoint(_called(test))


def _is_none(value: ast.AST) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _is_substitute(value: ast.AST) -> bool:
    """Whether an expression is a word, null or a mark, and not made by somebody else's codec."""
    if isinstance(value, ast.Dict):
        marked = any(isinstance(key, ast.Constant) for key in value.keys)
        return marked and set(_called(value)) <= {"repr", "str"}
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id in {"repr", "str"}
    return isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, str))


def step_counters(src: Path) -> list[str]:
    """Attributes named after steps or batches that are added to."""
    return sorted(
        {
            f"{name.split(':')[0]}: {target.attr}"
            for name, function in _functions(src)
            for node in _own(function)
            for target in _added_to(node)
            if _COUNTER.fullmatch(target.attr)
        }
    )


def _added_to(node: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes that this statement adds to: `a.n += 1`, and `a.n = a.n + 1`."""
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
        yield node.target
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
        old = {ast.unparse(node.value.left), ast.unparse(node.value.right)}
        for target in node.targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target) in old:
                yield target


def tree_walkers(src: Path) -> list[str]:
    """Modules whose functions come back to themselves, and ask for a dict, a list or a tuple."""
    functions = dict(_functions(src))
    calls = {name: set(_siblings(name, each, functions)) for name, each in functions.items()}
    return sorted(
        {
            name.split(":")[0]
            for name, function in functions.items()
            if name in _reached(name, calls) and _looks_at_containers(function)
        }
    )


def _siblings(name: str, function: Function, known: Mapping[str, Function]) -> Iterator[str]:
    """Functions of the same module, and methods of the same object, that a function names."""
    module = name.split(":", maxsplit=1)[0]
    scope = re.split(r"(?<=[:.])(?=\w+$)", name)[0]
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            nested = scope[:-1] in known  # a bare name never means a method
            found = (
                f"{module}:{node.id}",
                f"{name}.{node.id}",
                *([f"{scope}{node.id}"] if nested else []),
            )
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            found = (f"{scope}{node.attr}",)
        else:
            continue
        yield from (one for one in found if one in known)


def _looks_at_containers(function: Function) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            asks = node.func.id in {"isinstance", "issubclass"}
            if asks and not _CONTAINERS.isdisjoint(_words(node)):
                return True
        if isinstance(node, ast.MatchClass) and not _CONTAINERS.isdisjoint(_words(node.cls)):
            return True
    return False


def ways_back(src: Path) -> list[str]:
    """The hosts' `restore`, and each `put_back` beside it that assigns by itself."""
    own = [
        name
        for name, function in _functions(src)
        if function.name == "put_back"
        and re.search(r"Resum\w*\.put_back", name)
        and len(function.body) > 1
        and "restore" not in _called(function)
    ]
    return ["a host's restore", *own]


def retentions(src: Path) -> list[str]:
    """Modules of the core that rank what is kept: sort it by a key of their own."""
    return [
        name.removeprefix("peakhold.")
        for name, tree in _modules(src).items()
        if re.search(r"\._core\.policies\.keep", name)
        and any(isinstance(node, ast.keyword) and node.arg == "key" for node in ast.walk(tree))
    ]


# Imports


def circles(src: Path) -> list[list[str]]:
    """Modules that import one another as they run, at their tops or within functions."""
    return _circles(_imports(src, for_types=False))


def type_circles(src: Path) -> list[list[str]]:
    """The same, with what type checkers alone import."""
    return _circles(_imports(src, for_types=True))


def _imports(src: Path, *, for_types: bool) -> dict[str, set[str]]:
    modules = _modules(src)
    packages = {".".join(name.split(".")[:-1]) for name in modules if name.endswith(".__init__")}
    return {
        _plain(name): {
            target
            for node in _statements(tree, for_types=for_types)
            for target in _targets(node, {_plain(one) for one in modules} | packages)
        }
        - {_plain(name)}
        for name, tree in modules.items()
    }


def _plain(name: str) -> str:
    return name.removesuffix(".__init__")


def _statements(tree: ast.AST, *, for_types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in _words(node.test):
            if for_types:
                yield from _statements(node, for_types=True)
        else:
            yield from _statements(node, for_types=for_types)


def _targets(node: ast.Import | ast.ImportFrom, modules: Iterable[str]) -> Iterator[str]:
    known = set(modules)
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif node.level == 0 and node.module in known:
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if name in known else node.module


def _circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of modules each of which is reached from each other (small graphs: no cleverness)."""
    reached = {name: _reached(name, imports) for name in imports}
    found = {
        tuple(sorted(other for other in reached[name] if name in reached.get(other, ())))
        for name in imports
        if name in reached[name]
    }
    return sorted([*circle] for circle in found)


def _reached(name: str, imports: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(imports[name])
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting.extend(imports.get(one, ()))
    return seen
