"""What the linters cannot see: who compares metric values, what an import costs and loads."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest

import peakhold

SRC = pathlib.Path(peakhold.__file__).parent

# What a metric's value is called in this house. A comparison outside `_core` in which one of these
# words stands could rank metrics: it fails, or has its reason here.
METRIC_WORDS = re.compile(
    r"(?:^|_)(?:value|values|best|metric|metrics|loss|logs|baseline|threshold|reference|score|beat|"
    r"monitored|current|pending|accuracy|observation|moment)(?:_|$)"
)
ALLOWED = {
    "alerts/slack.py": {
        "max(parsedate_to_datetime(value).timestamp() - self._wall_clock(), 0.0)": "seconds",
    },
    "backup/state.py": {"0 <= value < _MOST": "a count"},
    "health.py": {"max(time.time() - _got_on_at(run, beat), 0.0)": "seconds"},
    "host/pieces.py": {
        "min(int(at[axis]) + value.shape[axis], int(offset[axis]) + length)": "indices",
    },
    "host/gradients.py": {"values.element_size() >= 4": "bytes"},
    "keras/host/keras_host.py": {"sorted(_logged(model.get_metrics_result()))": "names"},
    "tf_keras/host/tf_keras_host.py": {
        "sorted((metric.name for metric in model.metrics))": "names"
    },
    "snapshots/tree.py": {
        "value.bit_length() <= _MAX_INT_BITS": "bits",
        "value.bit_length() > _MAX_INT_BITS": "bits",
    },
    "run/means.py": {"sorted({metric.kind, kind})": "kinds"},
    "runtime/turn.py": {"len(numbers) < len(result.metrics)": "a count"},
    "store/manifest.py": {"0 <= value <= MAX_COUNT": "a count"},
    "store/reader.py": {
        "sorted({name for entry in entries.values() for name in entry.metrics})": "names",
    },
    "tensorboard/records.py": {"self._n_pending >= _BUFFER": "bytes"},
}
ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
RANKING_NAMES = {"min", "max", "sorted"}
RANKING_ATTRIBUTES = {
    "less", "greater", "less_equal", "greater_equal", "lt", "gt", "le", "ge", "argmin", "argmax",
    "nanmin", "nanmax", "minimum", "maximum", "sort",
}  # fmt: skip


def words_of(node):
    """Every name, attribute and string key under a node."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def orderings(tree):
    """Source text of everything that puts two values in order, one of which may be a metric's."""
    for node in ast.walk(tree):
        compares = isinstance(node, ast.Compare) and any(isinstance(o, ORDERINGS) for o in node.ops)
        calls = isinstance(node, ast.Call) and (
            (isinstance(node.func, ast.Name) and node.func.id in RANKING_NAMES)
            or (isinstance(node.func, ast.Attribute) and node.func.attr in RANKING_ATTRIBUTES)
        )
        if (compares or calls) and any(METRIC_WORDS.search(word) for word in words_of(node)):
            yield ast.unparse(node)


def test_no_metric_value_is_compared_outside_the_core():
    strangers, unused = [], []
    for path in sorted(SRC.rglob("*.py")):
        name = path.relative_to(SRC).as_posix()
        if name.startswith(("_core/", "testing/", "demo/")):
            continue
        found = set(orderings(ast.parse(path.read_text())))
        allowed = set(ALLOWED.get(name, ()))
        strangers += [f"{name}: {text}" for text in sorted(found - allowed)]
        unused += [f"{name}: {text}" for text in sorted(allowed - found)]

    assert strangers == [], "compare metric values in _core, or list why this ranks none"
    assert unused == [], "take these off the list"


@pytest.mark.parametrize(
    "ranking",
    ["value < self.best", "max(state.best, x)", "np.less(logs['loss'], x)", "a > entry.value",
     "sorted(records, key=lambda r: r.value)", "epoch_loss >= limit", "x < logs.get(name)",
     "new.lt(self.baseline)", "min(x, initial_value_threshold)"],
)  # fmt: skip
def test_the_check_above_sees(ranking):
    assert list(orderings(ast.parse(ranking))) == [ranking]


@pytest.mark.parametrize("order", ["batch < steps", "max(0.0, deadline - now)", "sorted(names)"])
def test_the_check_above_lets_pass(order):
    assert list(orderings(ast.parse(order))) == []


PURE = {
    "__future__", "ast", "collections", "dataclasses", "difflib", "enum", "math", "numbers", "operator", "re",
    "string", "struct", "types", "typing",
}  # fmt: skip


def test_the_core_imports_only_pure_parts_of_the_standard_library():
    for path in (SRC / "_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                ours = name.startswith(("peakhold._core", "peakhold.errors"))
                assert ours or name.split(".")[0] in PURE, f"{path.name} imports {name}"


def in_a_fresh_interpreter(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(result.stdout)


def test_one_module_asks_the_system_of_forks_and_of_the_end():
    asking = {
        path.relative_to(SRC).as_posix()
        for path in SRC.rglob("*.py")
        if re.search(r"register_at_fork|\batexit\.register", path.read_text())
    }

    assert asking == {"process.py"}


def test_importing_peakhold_loads_no_framework():
    loaded = in_a_fresh_interpreter(
        "import sys, json, peakhold\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )

    assert "peakhold" in loaded
    assert not {"keras", "tensorflow", "jax", "torch", "numpy", "h5py", "sklearn"} & set(loaded)


def test_importing_peakhold_loads_of_us_only_what_is_asked_for():
    loaded, names, missing, error = in_a_fresh_interpreter(
        "import sys, json, peakhold\n"
        "loaded = [m for m in sys.modules if m.startswith('peakhold')]\n"
        "missing = [n for n in peakhold.__all__ if getattr(peakhold, n, None) is None]\n"
        "try:\n"
        "    peakhold.EarlyStoping\n"
        "except AttributeError as caught:\n"
        "    error = str(caught)\n"
        "peakhold.errors.SaveError\n"
        "print(json.dumps([loaded, dir(peakhold), missing, error]))"
    )

    assert sorted(loaded) == ["peakhold", "peakhold._names", "peakhold._version"]
    assert {*peakhold.__all__, "errors", "store"} <= set(names)
    assert missing == []
    assert error == "module 'peakhold' has no attribute 'EarlyStoping'"


@pytest.mark.parametrize("package", ["peakhold", "peakhold.callbacks"])
def test_a_callback_brings_its_own_module_and_not_the_others(package):
    loaded = in_a_fresh_interpreter(
        f"import sys, json; from {package} import EarlyStopping\n"
        "print(json.dumps([m for m in sys.modules if m.startswith('peakhold.callbacks.')]))"
    )

    assert loaded == ["peakhold.callbacks.early_stopping"]


def test_only_one_framework_is_loaded_for_a_loop_of_torch():
    loaded = in_a_fresh_interpreter(
        "import sys, json, torch, peakhold\n"
        "model = torch.nn.Linear(2, 1)\n"
        "stop = peakhold.EarlyStopping('loss', restore_best_weights=True)\n"
        "cbs = peakhold.CallbackList(stop, model, verbose=0)\n"
        "cbs.on_train_begin(); cbs.on_epoch_begin(0); cbs.on_epoch_end(0, {'loss': torch.ones(())})\n"
        "cbs.on_train_end()\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )

    assert not {"keras", "tensorflow", "jax"} & set(loaded)


def test_nothing_of_ours_unpickles():
    """No pickle anywhere: neither imported nor reached through a library's loader."""
    for path in SRC.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

        assert not {"pickle", "cloudpickle", "dill", "shelve", "marshal"} & imported, path
