"""Each hint is fed back as code: what it names is there, takes what it says, and can be made.

All hints of the source are collected, of errors, advice and warnings, wherever they stand: under
`hint=`, in the place of a parameter of that name, in a table, or in a text after `Hint:`. Calls in
them are parsed, their names looked up, their keywords bound to the signature, and those that are
complete are carried out. Keywords outside of a call must be arguments of what the hint is about,
which its file tells. A value that a hint says to pass is passed. What else a hint quotes as code is
looked up, and what is prose alone names no code: `test_what_is_left_is_prose` sees to that.
"""

import ast
import inspect
import pathlib
import re

import numpy as np
import pytest
import torch

import keras
import peakhold
import peakhold.distributed
import peakhold.keras as pk
import peakhold.ledger
import peakhold.store
import peakhold.tensorboard
from peakhold.distributed.torch_store import TorchChannel

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


TREES = {
    path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(SOURCE.rglob("*.py"))
}


def places():
    """For each function or class that takes a `hint`: at which place, if it is not named."""
    found = {}
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                inner = [one for one in node.body if isinstance(one, ast.FunctionDef)]
                functions = [(node.name, one) for one in inner if one.name == "__init__"]
            else:
                functions = [(node.name, node)] if isinstance(node, ast.FunctionDef) else []
            for name, function in functions:
                names = [one.arg for one in function.args.args if one.arg not in {"self", "cls"}]
                if "hint" in names:
                    found[name] = names.index("hint")
    return found


PLACES = places()


def of_a_node(node):
    """The expressions that are hints, or whose text has one in it."""
    match node:
        case ast.Call(func=function, args=arguments, keywords=keywords):
            name = getattr(function, "id", getattr(function, "attr", ""))
            yield from (one.value for one in keywords if one.arg == "hint")
            if len(arguments) > PLACES.get(name, 99):
                yield arguments[PLACES[name]]
            if name == "Advice":
                yield arguments[2]
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value)
            | ast.AnnAssign(target=ast.Name(id=name), value=value)
        ) if name.strip("_").lower() in {"hint", "hints"} and value is not None:
            yield from value.values if isinstance(value, ast.Dict) else [value]


def hints():
    """File, name of the class around it, and text."""
    for file, tree in TREES.items():
        around = {
            id(inner): node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for inner in ast.walk(node)
        }
        within = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for inner in ast.walk(node)
            if inner is not node
        }
        documents = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            found = [text for one in of_a_node(node) for text in texts(one)]
            if isinstance(node, (ast.Constant, ast.JoinedStr)) and not (
                {id(node)} & (within | documents)
            ):
                found += [text.partition("Hint:")[2] for text in texts(node) if "Hint:" in text]
            for text in found:
                if text.strip(" …."):
                    yield file, around.get(id(node), ""), text.partition("Hint:")[2] or text


HINTS = sorted(set(hints()))


def test_all_hints_are_found():
    whole = "\n".join(text for *_, text in HINTS)

    assert len(HINTS) > 190
    for where, word in {
        "a table": "pass profile_batch",
        "after Hint:": "it reads the backup",
        "by its place": "write 'val_loss < 0.1'",
        "errors.py": "write to another disk",
        "advice": "write a smaller validation_freq",
    }.items():
        assert word in whole, where


# What a hint may name

NAMES = {
    **{name: getattr(peakhold, name) for name in peakhold.__all__},
    **{name: getattr(pk, name) for name in pk.__all__},
    **{name: getattr(peakhold.store, name) for name in peakhold.store.__all__},
    **{name: getattr(peakhold.distributed, name) for name in ("Max", "Mean", "Min", "Sum", "alone")},
    "TorchChannel": TorchChannel,
    "keras": keras, "peakhold": peakhold, "np": np, "callbacks": peakhold.CallbackList,
    "run": peakhold.Run,
}  # fmt: skip
FIT = [keras.Model.fit, keras.Model.compile]
STORE = [peakhold.store.Store, peakhold.store.Store.save, peakhold.store.Store.load]
WATCH = [peakhold.EarlyStopping, peakhold.ReduceLROnPlateau, peakhold.ModelCheckpoint]
LOOP = [peakhold.CallbackList, peakhold.LoopHost]
ABOUT = {  # by file, or folder, or the error's class: what keywords may be of
    "advice": [peakhold.EarlyStopping, peakhold.ReduceLROnPlateau, peakhold.ModelCheckpoint, *FIT],
    "backup": [peakhold.BackupAndRestore, *LOOP],
    "_core/policies/keep.py": [peakhold.store.KeepLast, peakhold.store.KeepEvery, *STORE],
    "keras/lending.py": [pk.ModelCheckpoint],
    "tf_keras/host": LOOP,
    "callbacks/alert.py": [peakhold.Alert],
    "callbacks/backup_and_restore.py": [peakhold.BackupAndRestore],
    "callbacks/csv_logger.py": [peakhold.CSVLogger],
    "callbacks/early_stopping.py": [peakhold.EarlyStopping, *LOOP],
    "callbacks/learning_rate_scheduler.py": [peakhold.LearningRateScheduler],
    "callbacks/reduce_lr_on_plateau.py": [peakhold.ReduceLROnPlateau],
    "callbacks/remote_monitor.py": [peakhold.RemoteMonitor],
    "callbacks/run_record.py": [peakhold.RunRecord],
    "callbacks/tensorboard.py": [peakhold.TensorBoard],
    "_core/arguments.py": [peakhold.EarlyStopping],
    "_core/policies/save_when.py": [peakhold.ModelCheckpoint],
    "checkpoint_files": [peakhold.ModelCheckpoint, *LOOP],
    "keras/fit": [pk.Batches, *FIT],
    "keras/production.py": [pk.production_callbacks],
    "keras/profiler.py": [pk.TensorBoard],
    "host": LOOP,
    "distributed": LOOP,
    "keras/host": LOOP,
    "runtime/watching.py": [*WATCH, *LOOP],
    "runtime": LOOP,
    "run": [peakhold.Run],
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
    "when",
    "full_tensor",
    "super",
    "self",
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
                torch.nn.Module,
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
    if function in {peakhold.Run.log, peakhold.Run.check}:
        return True  # whatever a metric is called
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


# Values that a hint says to pass

LITERAL = r"""('[^']*'|\[[^\]]*\]|\{[^}]*\}|-?\d+(?:\.\d+)?(?![\w.])|None|True|False)"""
MADE = {  # by the file of the hint, or its folder: with which arguments what it is about is made
    "callbacks/csv_logger.py": (peakhold.CSVLogger, {"filename": "log.csv"}),
    "callbacks/early_stopping.py": (peakhold.EarlyStopping, {}),
    "callbacks/remote_monitor.py": (peakhold.RemoteMonitor, {}),
    "callbacks/run_record.py": (peakhold.RunRecord, {}),
    "callbacks/tensorboard.py": (peakhold.TensorBoard, {}),
    "callbacks/backup_and_restore.py": (peakhold.BackupAndRestore, {"backup_dir": "b"}),
    "checkpoint_files": (peakhold.ModelCheckpoint, {"filepath": "m.safetensors"}),
    "_core/policies/save_when.py": (peakhold.ModelCheckpoint, {"filepath": "m.safetensors"}),
    "keras/production.py": (pk.production_callbacks, {"run_dir": "run", "monitor": "val_loss"}),
    "doctor/__init__.py": (peakhold.diagnose, {}),
    "ledger/folder.py": (peakhold.ledger.RunFolder, {}),
    "keras/fit/batches.py": (pk.Batches, {"x": np.zeros((4, 1)), "y": np.zeros(4)}),
    "runtime/loop_list.py": (peakhold.CallbackList, {}),
    "store": (peakhold.store.Store, {"folder": "checkpoints"}),
    "tensorboard": (peakhold.tensorboard.EventWriter, {"log_dir": "logs"}),
}
OF_METHODS = {"parts"}
"""Arguments of methods, which `test_a_call_in_a_hint_can_be_made` knows."""


def passed():
    """File, argument and value, of each `pass <literal>` beside the argument that it is of."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            argument = node.args[0]
            if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                continue
            for one in node.keywords:
                for text in texts(one.value) if one.arg == "hint" else ():
                    for literal in re.findall(rf"pass (?:a \w+ such as )?{LITERAL}", text):
                        yield file, argument.value, literal


PASSED = sorted(set(passed()))


@pytest.mark.parametrize(("file", "argument", "literal"), PASSED)
def test_a_value_that_a_hint_says_to_pass_is_taken(file, argument, literal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = [file, *map(str, pathlib.PurePosixPath(file).parents)]
    made = next((MADE[key] for key in whole if key in MADE), None)

    assert made is not None, f"name in MADE how {argument!r} of {file} is passed"
    function, others = made
    if argument not in OF_METHODS:
        function(**{**others, argument: ast.literal_eval(literal)})  # it raises nothing


# What is left


def test_what_is_left_is_prose():
    """A hint with a name in it is about a name: each that is no call, keyword or value is known."""
    seen = {text for *_, text in HINTS for _ in calls(text)} | {text for *_, text in KEYWORDS}
    names = {
        word
        for _, _, text in HINTS
        if text not in seen
        for word in re.findall(r"(?<![\w/.'{-])[a-z]+(?:_[a-z]+)+(?![\w/.'}=(-])", text)
    }
    known = {
        name
        for one in [*NAMES.values(), peakhold.ModelCheckpoint, *FIT, pk.Batches]
        if callable(one)
        for name in {*inspect.signature(one).parameters, *vars(one if inspect.isclass(one) else type(one))}
    } | set(NAMES)  # fmt: skip
    known |= {"x_train", "y_train", "x_test", "y_test"}  # arrays in a file of the demo's
    known |= {"tf_keras"}  # a package

    assert {name for name in names if name not in known and not name.startswith("val_")} == set()
