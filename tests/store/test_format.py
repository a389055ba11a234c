"""Format 1: the golden checkpoints are loaded for ever, and by a reader that has nothing of ours."""

import ast
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

import golden_state
import independent_reader
from peakhold.store import Reader, Store
from store_support import state

FIRST = Path(__file__).parent / "golden" / "format-1"
GOLDEN = Path(__file__).parent / "golden" / "format-1-words"
REFERS = Path(__file__).parent / "golden" / "format-1-refers-to"


def assert_tree(got, expected):
    assert type(got) is type(expected) or isinstance(expected, np.ndarray)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_tree(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_tree(one, other)
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.tobytes() == expected.tobytes()
    else:
        assert got == expected


@pytest.mark.parametrize("golden", [FIRST, GOLDEN, REFERS], ids=lambda folder: folder.name)
def test_the_golden_checkpoint_is_loaded_for_ever(tmp_path, golden):
    reader = Reader(golden)
    assert [finding.ok for finding in reader.verify()] == [True]
    loaded = reader.load("latest")
    assert_tree(loaded.parts, golden_state.golden())
    assert loaded["model"]["kernel"] is loaded["model"]["tied"]
    entry = loaded.entry
    assert (entry.step, entry.epoch, entry.reason, entry.commit) == (4200, 3, "golden", 1)
    assert entry.metrics["loss"] == 0.25 and math.isnan(entry.metrics["accuracy"])
    assert not entry.finite
    assert entry.refers_to == entry.info.refers_to == ((40, 4100) if golden is REFERS else ())
    shutil.copytree(golden, tmp_path / "copy")
    with Store(tmp_path / "copy") as store:  # and the store goes on from it
        assert store.save(4200, golden_state.golden()).result().name == "step-00004200.r2"


def test_what_is_written_today_is_the_golden_format_byte_for_byte(tmp_path):
    """Only the time differs: a change of format must be meant, and needs a new number."""
    with Store(tmp_path) as store:
        metrics = {"loss": 0.25, "accuracy": math.nan}
        store.save(4200, golden_state.golden(), epoch=3, metrics=metrics, reason="golden").result()
    for path in sorted((GOLDEN / "step-00004200").iterdir()):
        written = (tmp_path / "step-00004200" / path.name).read_bytes()
        if path.name != "manifest.json":
            assert written == path.read_bytes(), path.name
        else:
            ours, theirs = (text.split(b"\n")[1:-2] for text in (written, path.read_bytes()))
            assert ours == theirs


@pytest.mark.parametrize("make", [golden_state.golden, lambda: state(5)], ids=["golden", "state"])
def test_a_reader_with_nothing_of_ours_reads_it(tmp_path, make):
    with Store(tmp_path) as store:
        for step in (9, 5):
            store.save(step, make(), metrics={"loss": step})
    folder = independent_reader.newest(tmp_path)
    manifest, parts = independent_reader.load(folder)
    assert (manifest["step"], manifest["metrics"]) == (5, {"loss": 5.0})
    assert_tree(parts, make())
    for golden in (FIRST, GOLDEN, REFERS):
        assert_tree(independent_reader.load(golden / "step-00004200")[1], golden_state.golden())


def test_which_others_a_checkpoint_needs_is_written_as_in_the_golden_one(tmp_path):
    with Store(tmp_path) as store:
        arguments = {"epoch": 3, "metrics": {"loss": 0.25, "accuracy": math.nan}}
        store.save(
            4200, golden_state.golden(), reason="golden", refers_to=[4100, 40, 40], **arguments
        )
    written, golden = (
        json.loads((folder / "step-00004200" / "manifest.json").read_text("ascii"))
        for folder in (tmp_path, REFERS)
    )

    assert written["refers_to"] == [40, 4100]
    for manifest in (written, golden):
        del manifest["committed_at"], manifest["xxh3_128"]
    assert written == golden


def test_that_reader_is_short_and_imports_nothing_of_ours():
    source = Path(independent_reader.__file__).read_text("utf-8")
    names = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names == {"base64", "json", "ml_dtypes", "numpy", "xxhash"}
    code = [line for line in source.splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 60


def test_that_reader_finds_damage(tmp_path):
    shutil.copytree(GOLDEN / "step-00004200", tmp_path / "step-00004200")
    path = tmp_path / "step-00004200" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(AssertionError, match="damaged"):
        independent_reader.load(tmp_path / "step-00004200")


def test_any_safetensors_reader_opens_the_files():
    tensors = safetensors.torch.load_file(GOLDEN / "step-00004200" / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["kernel"].numpy(), golden_state.golden()["model"]["kernel"]
    )
    assert tensors["spectrum"].shape == (2, 2)  # complex128, as pairs of float64
    assert "tied" not in tensors  # written once
