"""What the linters cannot see: who compares metric values, what an import costs and loads."""

import ast
import json
import pathlib
import subprocess
import sys

import peakhold

SRC = pathlib.Path(peakhold.__file__).parent

# Every ordering outside `_core`, as source text, with the reason why it ranks no metric. Whatever
# is not listed fails the test: a comparison of metric values belongs into `_core`.
ALLOWED = {
    "callbacks/backup_and_restore.py": {
        "batch <= self._last_batch_seen": "numbers of batches",
        "max(0.0, deadline - time.monotonic())": "seconds",
        "max(epoch, session.epochs or 0)": "numbers of epochs",
        "run.batches >= every": "numbers of batches",
        "run.folder.last_step < 0": "numbers of steps",
        "self.initial_epoch >= epochs": "numbers of epochs",
        "sorted(lost)": "names of callbacks",
    },
    "callbacks/backup_folder.py": {
        "max((entry.step for entry in self._store.list()), default=-1)": "numbers of steps",
        "max(0.0, deadline - time.monotonic())": "seconds",
        "sorted(self._names(), reverse=True)": "names of folders",
        "sorted({other for other in refers_to if other != step})": "numbers of steps",
        "which < len(entries)": "how many backups",
    },
    "keras/resume.py": {
        "index < len(kept)": "how many tensors",
        "index < len(variables)": "how many tensors",
        "index >= len(kept)": "how many tensors",
        "max(len(kept), len(variables))": "how many tensors",
    },
    "runtime/callback_states.py": {"sorted(header.items())": "names"},
    "errors.py": {"len(words) > 3": "how many tensors"},
    "advice/rules.py": {
        "waits[unit] >= stops[unit]": "patience, not a metric",
        "max(patience, 1)": "patience, not a metric",
        "max(patience * 2, 2)": "patience, not a metric",
        "wait[unit] < end": "patience, not a metric",
        "first > epochs": "numbers of epochs",
        "schedule.ends_after >= _ALMOST * of": "numbers of steps",
        "len({monitor for monitor, _ in held}) > 1": "how many metrics",
        "len({epoch for _, epoch in held}) > 1": "how many epochs",
        "n > 1": "how many callbacks write one path",
    },
    "callbacks/alerting.py": {
        "epoch > 0": "number of an epoch",
        "max(deadline - time.monotonic(), 0.0)": "seconds",
        "min(left_s, self.exit_timeout_s)": "seconds",
    },
    "callbacks/csv_logger.py": {
        "len(kept) < self._rows": "how many rows",
        "len(rows) > self._rows": "how many rows",
        "min(self._written, len(kept))": "how many rows",
        "os.write(descriptor, lines) < len(lines)": "bytes",
        "run_index >= 0": "a row's number",
        "sorted(row.keys() - {'epoch'} - set(self.keys or ()))": "names of columns",
        "sorted({*header[1:], *fresh})": "names of columns",
    },
    "callbacks/early_stopping.py": {
        "epoch < self.start_from_epoch": "numbers of epochs",
        "epoch > 0": "number of an epoch",
        "len(names) > 1": "how many metrics",
        "sorted(self.host.nonfinite_in(live))": "names of variables",
        "sorted(held.nonfinite())": "names of variables",
        "sorted(step.held.nonfinite())": "names of variables",
    },
    "callbacks/several_metrics.py": {
        "len(set(names)) < len(names)": "how many metrics",
        "max(map(len, column))": "width of a column of text",
    },
    "callbacks/training_clock.py": {
        "count > 0": "how many steps",
    },
    "callbacks/checkpoint_folder.py": {
        "sorted(glob.glob(pattern))": "names of files",
        "sorted({os.path.dirname(path) or '.' for path in going})": "names of folders",
    },
    "callbacks/checkpoint_naming.py": {
        "free < needed": "bytes",
        "sorted(known)": "names of metrics",
        "sorted(self._template.fields - known)": "names of placeholders",
    },
    "callbacks/checkpoint_save.py": {
        "len((going := [save for save in self._mine() if not save.task.done])) >= limit": "how many",
        "len(saves) > 1": "how many saves",
        "max(until - time.monotonic(), 0.0)": "seconds",
    },
    "callbacks/checkpoint_writing.py": {
        "max(deadline - time.monotonic(), 0.0)": "seconds",
        "sorted(bad)": "names of variables",
        "sorted(numbers.items())": "by name",
    },
    "callbacks/model_checkpoint.py": {
        "epoch > 0": "number of an epoch",
        "sorted(self._exempt)": "names of variables",
    },
    "callbacks/reduce_lr_on_plateau.py": {
        "self.cooldown_counter > 0": "a count of epochs",
        "epoch > 0": "number of an epoch",
    },
    "host.py": {
        "leaf.element_size() < 4": "bytes of an element",
    },
    "gradients.py": {
        "len(norms) > 1": "how many tensors",
        "values.element_size() >= 4": "bytes of an element",
    },
    "keras/gradients.py": {
        "largest < 0": "the mark of no batch yet",
        "size > largest": "`GradientFacts.after`, on the device; NaN has become infinite before",
    },
    "callbacks/tensorboard.py": {
        "first < 0": "number of a batch",
        "last < first": "numbers of batches",
    },
    "callbacks/weight_images.py": {
        "array.shape[0] > array.shape[1]": "lengths of axes",
    },
    "keras/production.py": {
        "max(1, (patience - 1) // 2)": "numbers of epochs",
        "max(found, default=0)": "numbers of runs",
    },
    "keras/profiler.py": {
        "sys.version_info < (3, 12)": "versions",
    },
    "keras/tf_summary.py": {
        "int(time.time()) <= newest": "times of files",
    },
    "keras/fit_frame.py": {
        "depth > _NEAR": "frames",
        "frequency <= epochs": "numbers of epochs",
        "epoch <= epochs": "numbers of epochs",
        "min((epoch for epoch in frequency if isinstance(epoch, int)), default=None)": "epochs",
    },
    "keras/host.py": {
        "sorted(model.get_metrics_result())": "names of metrics",
        "max(bits // 8, 1)": "bytes of an element",
        "getattr(strategy, 'num_replicas_in_sync', 1) > 1": "how many devices",
        "len(_optimizer_variables(self._optimizer)) < len(arrays)": "how many variables",
        "max(counts, default=None)": "how many steps",
    },
    "keras/hdf5_image.py": {
        "done < len(view)": "bytes",
        "offset > position": "bytes",
        "sorted(offsets)": "bytes",
        "max(self.size, self._position)": "bytes",
        "max(min(len(view), self.size - self._position), 0)": "bytes",
        "min(len(view), self.size - self._position)": "bytes",
    },
    "runtime/pool.py": {
        "min(budgets, default=None)": "bytes",
        "min(count, self._references)": "how many references",
        "needed + self._booked_extra + extra <= self.budget": "bytes",
        "sorted(self._unprepared)": "names of parts",
    },
    "keras/callback.py": {
        "keras.ops.less": "what `monitor_op` shows; the policy compares by itself",
        "keras.ops.greater": "what `monitor_op` shows; the policy compares by itself",
    },
    "runtime/callback.py": {
        "operator.lt": "what `monitor_op` shows; the policy compares by itself",
        "operator.gt": "what `monitor_op` shows; the policy compares by itself",
    },
    "runtime/summary.py": {
        "seconds < 60": "seconds",
        "minutes < 60": "minutes",
        "ending.last_epoch + 1 < ending.epochs": "numbers of epochs",
        "left <= 0": "epochs left",
    },
    "store/reader.py": {
        "sorted({name for entry in entries.values() for name in entry.metrics})": "names",
    },
}
ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
RANKING_NAMES = {"min", "max", "sorted"}
RANKING_ATTRIBUTES = {
    "less", "greater", "less_equal", "greater_equal", "lt", "gt", "le", "ge", "argmin", "argmax",
    "nanmin", "nanmax", "minimum", "maximum", "sort",
}  # fmt: skip


def orderings(tree):
    """Source text of everything that puts two values in order."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ORDERINGS) for op in node.ops):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in RANKING_NAMES:
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and node.attr in RANKING_ATTRIBUTES:
            yield ast.unparse(node)


def test_no_metric_value_is_compared_outside_the_core():
    strangers, unused = [], []
    for path in sorted(SRC.rglob("*.py")):
        name = path.relative_to(SRC).as_posix()
        if name.startswith(("_core/", "testing/", "demo")):
            continue
        found = set(orderings(ast.parse(path.read_text())))
        # These order steps, offsets, sizes and seconds all the time.
        if name.startswith(("store/", "alerts/", "tensorboard/")):
            found = {text for text in found if "metric" in text or "best" in text}
        allowed = set(ALLOWED.get(name, ()))
        strangers += [f"{name}: {text}" for text in sorted(found - allowed)]
        unused += [f"{name}: {text}" for text in sorted(allowed - found)]

    assert strangers == [], "compare metric values in _core, or list why this ranks none"
    assert unused == [], "take these off the list"


def test_the_check_above_can_fail():
    tree = ast.parse("def f(a, b):\n    return a < b or max(a, b) or np.less(a, b)\n")

    assert sorted(orderings(tree)) == ["a < b", "max(a, b)", "np.less"]


PURE = {
    "__future__", "ast", "collections", "dataclasses", "difflib", "enum", "math", "operator", "re",
    "string", "struct", "typing",
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

    assert sorted(loaded) == ["peakhold", "peakhold._version"]
    assert {*peakhold.__all__, "errors", "store"} <= set(names)
    assert missing == []
    assert error == "module 'peakhold' has no attribute 'EarlyStoping'"


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
