"""Every benchmark runs, in its smallest form, and has its rows: a renaming breaks none in silence.

The figures of such a run say nothing, and are not looked at; that there is one is.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

ROWS = {
    "callbacks": [
        "bare interpreter",
        "`import peakhold`, beyond it",
        "`from peakhold import EarlyStopping`, beyond it",
        "a batch of `fit`",
        "its hooks alone",
        "the end of an epoch",
    ],
    "tensorboard": [
        "one scalar",
        "a batch, over no callback",
        "1,000 histograms of 10,000",
        "a batch of fit, 1 M weights, watched",
        "a batch of fit, 1 M weights, watched, keep=True",
    ],
    "early-stopping": [
        "first improvement, × memcpy",
        "each further one, × memcpy",
        "on train begin, × memcpy",
        "allocated after train begin, × weights",
        "peak memory above the start, × weights",
        "an epoch's batches, ms",
    ],
    "saving": [
        "Keras `.keras`",
        "Peakhold `.keras`",
        "Keras `.keras`",
        "Peakhold `.keras`",
        "Keras `.weights.h5`",
        "Peakhold `.weights.h5`",
        "Keras `backup`",
        "Peakhold `backup`",
    ],
    "alerts": [
        "no alert",
        "answers",
        "answers 429, `Retry-After: 1`",
        "answers 500",
        "hangs",
        "cuts the connection",
        "refuses",
    ],
    "workers": ["torch, 2 workers", "jax, 2 workers", "tensorflow, 2 workers"],
    "store": [
        "peakhold",
        "peakhold, immutable=True",
        "safetensors save_file",
        "peakhold",
        "torch.save",
        "safetensors save_file",
        "torch DCP async_save",
        "Keras ModelCheckpoint",
        "peakhold",
        "peakhold, immutable=True",
    ],
    "many-small-arrays": ["arrays of numpy", "arrays of torch", "arrays of jax"],
    "record": [
        "opening, from an offset",
        "an event",
        "a moment, written at once",
        "the history",
        "all events",
        "how the run stands",
    ],
    "run": ["a batch, nothing due", "`run.log` of a float", "`Budget(0.035)`, 0.1 MiB"],
    "logged-values": [
        "a value of the device",
        "a float",
        "the size of a batch",
        "a batch of the bar",
        "memory after 300 more",
    ],
}


@pytest.fixture(scope="module")
def printed():
    """What is printed, by section."""
    results = (BENCHMARKS / "RESULTS.md").read_bytes()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), "--quick"],
        env={**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (BENCHMARKS / "RESULTS.md").read_bytes() == results
    parts = re.split(rf"^({'|'.join(ROWS)})$", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section):
    """The rows below the headers of its tables, as cells, but for the backend's."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    above = {i - 1 for i, line in enumerate(lines) if set(line) <= set("|-")}
    below = {i + 1 for i in above}
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for i, line in enumerate(lines)
        if i not in above and i not in below
    ]
    return [row[1:] if re.match("torch(?!, . workers)(,|$)", row[0]) else row for row in cells]


@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_has_its_rows(name, printed):
    found = rows(printed[name])

    assert [row[0] for row in found if not row[0].startswith("Orbax")] == ROWS[name]
    assert all(re.search(r"\d", "".join(row[1:])) for row in found)


def test_what_is_noted_of_our_own_classes_is_there(printed):
    """What benchmarks look for inside of the package would go missing without an error."""
    saves = [row for row in rows(printed["saving"]) if row[0].startswith("Peakhold")]
    assert len(saves) == 4
    for *_, durable, _, buffers in saves:
        assert durable.endswith(" s"), "no commit was seen"
        assert " MB in " in buffers, "no buffers were seen"


def test_the_store_is_measured_with_many_small_things(printed):
    assert "20 tensors: stall" in printed["store"]
    for kind in ("numpy", "torch"):
        assert f"20 small arrays of {kind}: `save` takes" in printed["store"]
    assert "A backup after 4 epochs, four metrics of floats: " in printed["store"]
    assert "5 checkpoints of 30 tensors: " in printed["store"]


def test_every_benchmark_is_one_of_the_sections():
    text = (BENCHMARKS / "run.py").read_text("utf-8")
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - {"run"}

    assert scripts
    assert all(re.search(rf"import {name}\b|\"{name}\.py\"", text) for name in scripts)
