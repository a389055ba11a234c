"""Keras's own callback tests, from the installed wheel, with our classes in place of Keras's."""

import ast
import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

import keras
from conformance.differences import DELIBERATE, NOT_HERE_YET

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
SUITE = pathlib.Path(keras.__file__).parent / "src" / "callbacks"
FILES = sorted(p.name for p in SUITE.glob("*_test.py") if p.name not in NOT_HERE_YET)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One process for the whole suite; returns results by test, and what was constructed."""
    folder = tmp_path_factory.mktemp("conformance")
    report, counts = folder / "report.xml", folder / "constructed.json"
    environment = {
        **os.environ,
        "KERAS_BACKEND": BACKEND,
        "PEAKHOLD_CONSTRUCTED": str(counts),
        # As in `conftest.py`: many of these tests train the same small model.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join(
            [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
    }
    process = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "keras_swap", "-p", "no:cacheprovider", "-q",
            "--import-mode=importlib", f"--junitxml={report}", "--rootdir", str(folder),
            "-c", os.devnull, *(str(SUITE / name) for name in FILES),
        ],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert report.exists(), process.stdout[-4000:] + process.stderr[-4000:]
    results = {}
    for case in ET.parse(report).iter("testcase"):
        outcome = next((c.tag for c in case if c.tag in {"failure", "error", "skipped"}), "passed")
        key = f"{case.get('classname').split('.')[-1]}.{case.get('name')}"
        results[key] = (outcome, "".join(c.text or "" for c in case))
    return results, json.loads(counts.read_text())


def _classes(name):
    tree = ast.parse((SUITE / name).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("name", FILES)
def test_keras_own_tests_pass_with_our_classes(run, name):
    results, _ = run
    mine = {k: v for k, v in results.items() if k.split(".")[0] in _classes(name)}
    assert mine, f"no test of {name} was run"

    unexpected = {
        key: text[-3000:]
        for key, (outcome, text) in mine.items()
        if outcome in {"failure", "error"} and key not in DELIBERATE
    }
    stale = [k for k, (outcome, _) in mine.items() if k in DELIBERATE and outcome == "passed"]

    assert any(outcome == "passed" for outcome, _ in mine.values())
    assert not unexpected, "\n".join(f"{k}\n{v}" for k, v in unexpected.items())
    assert not stale, f"passes now, take it off the list of differences: {stale}"


def test_our_classes_really_were_constructed(run):
    _, constructed = run
    print(BACKEND, constructed)

    assert constructed["EarlyStopping"] >= 15
    assert constructed["ModelCheckpoint"] >= 15
    assert constructed["ReduceLROnPlateau"] >= 5
    assert constructed["CSVLogger"] >= 3
    assert constructed["TensorBoard"] >= 10
    assert constructed["TerminateOnNaN"] >= 5
    assert constructed["LearningRateScheduler"] >= 3
    assert constructed["BackupAndRestore"] >= 5
    assert constructed["RemoteMonitor"] >= 4
    assert constructed["SwapEMAWeights"] >= 4
    assert constructed["CallbackList"] >= 20
    assert constructed["Callback"] >= 1


def test_every_file_of_the_suite_is_run_or_named():
    shipped = {p.name for p in SUITE.glob("*_test.py")}

    assert set(FILES) | set(NOT_HERE_YET) == shipped
