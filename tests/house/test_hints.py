"""Each hint is fed back as code: what it names is there, takes what it says, and can be made.

All hints of the source are collected, of errors and of advice. Calls in them are parsed, their
names looked up, their keywords bound to the signature, and those that are complete are carried out.
Keywords outside of a call must be arguments of what the hint is about, which its file tells.
"""

import ast
import inspect
import pathlib
import re

import numpy as np
import pytest

import keras
import peakhold
import peakhold.distributed
import peakhold.keras as pk
import peakhold.store
import peakhold.tensorboard

SOURCE = pathlib.Path(peakhold.__file__).parent


def texts(node):
    """What a string may be; what is filled in is `…`."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            found = [""]
            for part in parts:
                inner = part if isinstance(part, ast.Constant) else part.value
                found = [a + b for a in found for b in texts(inner) or ["…"]]
            return found
        case ast.IfExp(body=one, orelse=other):
            return texts(one) + texts(other)
    return []


def hints():
    """File, name of the class around it, and text."""
    for path in sorted(SOURCE.rglob("*.py")):
        file, tree = path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text("utf-8"))
        around = {
            id(inner): node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            found = []
            match node:
                case ast.Call(func=function, args=arguments, keywords=keywords):
                    name = getattr(function, "id", getattr(function, "attr", ""))
                    found = [one.value for one in keywords if one.arg == "hint"]
                    if name == "_with_hint" and len(arguments) > 1:
                        found.append(arguments[1])
                    if name == "Advice":
                        found.append(arguments[2])
                case ast.Assign(targets=[ast.Name(id="hint")], value=value):
                    found = [value]
            for text in (text for one in found for text in texts(one)):
                yield file, around.get(id(node), ""), text


HINTS = sorted(set(hints()))


def test_all_hints_are_found():
    assert len(HINTS) > 110
    assert any(file == "errors.py" for file, *_ in HINTS)


# What a hint may name

NAMES = {
    **{name: getattr(peakhold, name) for name in peakhold.__all__},
    **{name: getattr(pk, name) for name in pk.__all__},
    **{name: getattr(peakhold.store, name) for name in peakhold.store.__all__},
    **{name: getattr(peakhold.distributed, name) for name in ("Max", "Mean", "Min", "Sum", "alone")},
    "keras": keras, "peakhold": peakhold, "np": np,
}  # fmt: skip
FIT = [keras.Model.fit, keras.Model.compile]
STORE = [peakhold.store.Store, peakhold.store.Store.save, peakhold.store.Store.load]
WATCH = [peakhold.EarlyStopping, peakhold.ReduceLROnPlateau, peakhold.ModelCheckpoint]
LOOP = [peakhold.CallbackList, peakhold.LoopHost]
ABOUT = {  # by file, or folder, or the error's class: what keywords may be of
    "advice": [peakhold.EarlyStopping, peakhold.ReduceLROnPlateau, peakhold.ModelCheckpoint, *FIT],
    "backup": [peakhold.BackupAndRestore],
    "callbacks/alert.py": [peakhold.Alert],
    "callbacks/backup_and_restore.py": [peakhold.BackupAndRestore],
    "callbacks/csv_logger.py": [peakhold.CSVLogger],
    "callbacks/early_stopping.py": [peakhold.EarlyStopping, *LOOP],
    "callbacks/learning_rate_scheduler.py": [peakhold.LearningRateScheduler],
    "callbacks/reduce_lr_on_plateau.py": [peakhold.ReduceLROnPlateau],
    "callbacks/remote_monitor.py": [peakhold.RemoteMonitor],
    "callbacks/tensorboard.py": [peakhold.TensorBoard],
    "_core/arguments.py": [peakhold.EarlyStopping],
    "_core/policies/save_when.py": [peakhold.ModelCheckpoint],
    "checkpoint_files": [peakhold.ModelCheckpoint, *LOOP],
    "keras/fit": [pk.Batches, *FIT],
    "keras/production.py": [pk.production_callbacks],
    "keras/profiler.py": [pk.TensorBoard],
    "host": LOOP,
    "keras/host": LOOP,
    "runtime/watching.py": [*WATCH, *LOOP],
    "runtime": LOOP,
    "store": STORE,
    "DirectionUnknownError": WATCH,
    "NotAScalarError": [keras.metrics.F1Score],
    "NonFiniteGradientError": [keras.optimizers.SGD, keras.optimizers.Adam],
    "PartMissingError": STORE,
    "SaveReplacedError": STORE,
    "HostError": LOOP,
}
OF_PEOPLE = {
    "model",
    "path",
    "optimizer",
    "callback",
    "torch",
    "jax",
    "image",
    "key",
    "loss",
    "state",
    "loaded",
    "get",
    "set",
    "range",
}
"""Names that stand for something of the user's, of a framework that need not be there, or of
Python's own."""


def about(file, cls):
    whole = [file, *map(str, pathlib.PurePosixPath(file).parents)]
    return next((ABOUT[key] for key in [cls, *whole] if key in ABOUT), [])


def calls(text):
    """The source of each call in a text, from a name to its closing parenthesis."""
    for start in re.finditer(r"(?<![\w.])[A-Za-z_][\w.]*\(", text):
        depth, end = 0, start.end() - 1
        while end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                yield text[start.start() : end]
                break


def parsed(source):
    try:
        return ast.parse(source, mode="eval").body
    except SyntaxError:
        return None


def looked_up(node):
    """What a dotted name stands for; None for what is the user's."""
    name = ast.unparse(node)
    first, *rest = name.split(".")
    if first in OF_PEOPLE:
        return None
    if first not in NAMES:
        methods = [
            getattr(one, name, None)
            for one in (
                peakhold.store.Store,
                peakhold.store.Reader,
                peakhold.CallbackList,
                peakhold.Callback,
                pk.EarlyStopping,
                keras.Model,
            )
        ]
        return next(one for one in methods if one is not None)
    value = NAMES[first]
    for attribute in rest:
        value = getattr(value, attribute)
    return value


def accepts(function, keyword):
    parameters = inspect.signature(function).parameters
    if function is peakhold.CallbackList and keyword in {"epochs", "steps", "verbose"}:
        return True  # it hands them on, as the docstring has it
    if keyword in parameters:
        return parameters[keyword].kind is not inspect.Parameter.VAR_KEYWORD
    # Keras's optimizers take some of their arguments only as `**kwargs` of their base.
    bases = inspect.getmro(function)[1:] if inspect.isclass(function) else ()
    return any(
        keyword in inspect.signature(base).parameters for base in bases if base is not object
    )


CALLS = [(file, source) for file, _, text in HINTS for source in calls(text)]


@pytest.mark.parametrize(("file", "source"), dict.fromkeys(CALLS), ids=lambda one: one)
def test_a_call_in_a_hint_can_be_made(file, source):
    node = parsed(source.replace("…", "1"))
    assert isinstance(node, ast.Call), f"{source} is no Python"

    function = looked_up(node.func)

    if function is None:
        return
    for keyword in node.keywords:
        assert accepts(function, keyword.arg), f"{source}: {keyword.arg} is no argument"
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    is_whole = "…" not in source and "..." not in source and names <= NAMES.keys() and (
        inspect.isclass(function) or function is pk.watch_gradients
    )  # fmt: skip
    required = [
        one for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]  # fmt: skip
    if is_whole and len(node.args) + len(node.keywords) >= len(required):
        eval(compile(ast.Expression(node), source, "eval"), dict(NAMES))  # it raises nothing


KEYWORDS = [
    (file, cls, keyword, text)
    for file, cls, text in HINTS
    for keyword in re.findall(
        r"(?<![\w.{-])([a-z_]\w*)=(?!=)", re.sub(r"[\w.]+\([^()]*(\([^()]*\)[^()]*)*\)", "", text)
    )
]  # fmt: skip


@pytest.mark.parametrize(("file", "cls", "keyword", "text"), KEYWORDS)
def test_a_keyword_in_a_hint_is_an_argument_of_what_it_is_about(file, cls, keyword, text):
    candidates = about(file, cls)

    assert any(accepts(one, keyword) for one in candidates), f"{file}: {text}"
