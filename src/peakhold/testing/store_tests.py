"""The contract of a checkpoint store, as tests that any backend can run.

What the kit puts on disk or finds there, it puts and finds itself, without the store under test: a
store cannot vouch for itself. pytest's fixture `tmp_path` is the only thing asked of the runner.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from peakhold.errors import (
    CheckpointDamagedError,
    CheckpointDamagedWarning,
    CheckpointNotFoundError,
    InvalidArgumentError,
    PartMissingError,
    StoreClosedError,
    StoreOwnedError,
)
from peakhold.store import KeepBest, KeepLast, Reader, Store

__all__ = ["StoreTests"]


@contextmanager
def _raises(kind: type[BaseException], pattern: str = "") -> Iterator[None]:
    seen = None
    try:
        yield
    except kind as error:
        seen = str(error)
    assert seen is not None, f"{kind.__name__} was not raised"
    assert re.search(pattern, seen), f"{pattern!r} is not in {seen}"


@contextmanager
def _warns(kind: type[Warning]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    assert any(issubclass(w.category, kind) for w in seen), f"no {kind.__name__} was given"


def _state(value: float) -> dict[str, Any]:
    """Two parts, two arrays, some plain values; all different for different values."""
    return {
        "model": {"kernel": np.full((3, 5), value, np.float32), "bias": np.arange(5) + value},
        "train": {"rate": value / 8, "names": ["a", ("b", None)], "seen": {1: True}},
    }


class StoreTests:
    """Subclass it, implement `open_store` and `open_reader`, and let pytest collect it."""

    @abstractmethod
    def open_store(self, folder: Path, **options: Any) -> Store:
        """Open the store under test for writing; `options` are those of `Store`."""

    @abstractmethod
    def open_reader(self, folder: Path) -> Reader:
        """Open what looks into the folder without owning it."""

    # What the kit does to a folder behind the store's back; override for a store that is no folder.

    def folders(self, folder: Path) -> list[str]:
        """Names of all that can be seen, hidden names left out."""
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))

    def damage(self, folder: Path, name: str, file: str) -> None:
        """Flip the last bit of one file of a checkpoint."""
        path = folder / name / file
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    def leave_unfinished(self, folder: Path) -> None:
        """Leave what a killed writer leaves."""
        unfinished = folder / ".tmp-step-00000099-0123abcd"
        unfinished.mkdir()
        (unfinished / "model.safetensors").write_bytes(b"\0" * 100)

    def check_equal(self, got: Any, expected: Any) -> None:
        """Compare two trees: types, dtypes, shapes and bits."""
        assert type(got) is type(expected), (got, expected)
        if isinstance(expected, dict):
            assert list(got) == list(expected)
            for key in expected:
                self.check_equal(got[key], expected[key])
        elif isinstance(expected, list | tuple):
            assert len(got) == len(expected)
            for one, other in zip(got, expected, strict=True):
                self.check_equal(one, other)
        elif isinstance(expected, np.ndarray):
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            assert got.tobytes() == expected.tobytes()
        elif isinstance(expected, float) and math.isnan(expected):
            assert math.isnan(got)
        else:
            assert got == expected

    # The contract.

    def test_what_was_saved_is_loaded(self, tmp_path: Path) -> None:
        """Structure, types and bits come back, by another object, after the store is closed."""
        with self.open_store(tmp_path) as store:
            entry = store.save(
                42, _state(1), epoch=3, metrics={"loss": 0.5}, reason="a test"
            ).result()
        assert (entry.step, entry.epoch, entry.reason) == (42, 3, "a test")

        loaded = self.open_reader(tmp_path).load("latest")

        self.check_equal(loaded.parts, _state(1))
        assert dict(loaded.entry.metrics) == {"loss": 0.5}
        assert loaded.passed_over == ()

    def test_nothing_is_empty_and_said_to_be(self, tmp_path: Path) -> None:
        """An empty store has no latest and no best; loading says there is none."""
        with self.open_store(tmp_path) as store:
            assert (store.list(), store.latest, store.best("loss", "min")) == ([], None, None)
            with _raises(CheckpointNotFoundError, "holds none"):
                store.load("latest")

    def test_arrays_may_change_when_save_returns(self, tmp_path: Path) -> None:
        """The snapshot is taken before `save` returns."""
        state = _state(1)
        with self.open_store(tmp_path) as store:
            pending = store.save(1, state)
            state["model"]["kernel"][...] = 7
            state["train"]["names"].append("late")
            pending.result()
            self.check_equal(store.load(1).parts, _state(1))

    def test_latest_is_the_newest_commit(self, tmp_path: Path) -> None:
        """Not the highest step: a run that was rolled back goes on from where it is."""
        with self.open_store(tmp_path) as store:
            for step in (10, 20, 5):
                store.save(step, _state(step))
            store.wait()
            assert [entry.step for entry in store.list()] == [10, 20, 5]
            assert store.load("latest").entry.step == 5

    def test_a_step_saved_again_is_a_revision(self, tmp_path: Path) -> None:
        """Nothing is overwritten; the newest revision of the step is what the step means."""
        with self.open_store(tmp_path) as store:
            for value in (1, 2):
                store.save(7, _state(value))
            store.wait()
            assert [entry.revision for entry in store.list()] == [1, 2]
            self.check_equal(store.load(7).parts, _state(2))
        assert self.folders(tmp_path) == ["step-00000007", "step-00000007.r2"]

    def test_nan_is_never_best(self, tmp_path: Path) -> None:
        """Nor is an infinity; of equal values the first wins."""
        values = [math.nan, 0.5, -math.inf, math.inf, 0.25, 0.25, math.nan]
        with self.open_store(tmp_path) as store:
            for step, value in enumerate(values):
                store.save(step, _state(step), metrics={"loss": value})
            store.wait()
            best = [store.best("loss", mode) for mode in ("min", "max")]
            assert [entry and entry.step for entry in best] == [4, 1]
            with _raises(InvalidArgumentError, "metric='los'"):
                store.best("los", "min")

    def test_parts_are_loaded_alone(self, tmp_path: Path) -> None:
        """Damage in one part does not touch another; a part that is not there is named."""
        with self.open_store(tmp_path) as store:
            entry = store.save(1, _state(1)).result()
            self.damage(tmp_path, entry.name, "model.safetensors")
            assert list(store.load(entry, ["train"]).parts) == ["train"]
            with _raises(PartMissingError, "'optimizer'.*'model', 'train'"):
                store.load(entry, ["optimizer"])

    def test_damage_is_named_and_an_older_one_served(self, tmp_path: Path) -> None:
        """`latest` falls back and says so; a step asked for by name does not."""
        with self.open_store(tmp_path) as store:
            for step in (1, 2):
                store.save(step, _state(step))
            store.wait()
            self.damage(tmp_path, "step-00000002", "model.safetensors")
            with _warns(CheckpointDamagedWarning):
                loaded = store.load("latest")
            assert loaded.entry.step == 1
            assert [error.tensor for error in loaded.passed_over] == ["kernel"]
            for which in (2, "latest"):
                with _raises(CheckpointDamagedError, "step-00000002.*kernel"):
                    store.load(which, if_damaged="error")
            assert [finding.ok for finding in store.verify()] == [True, False]

    def test_all_damaged_is_not_empty(self, tmp_path: Path) -> None:
        """A folder where everything is damaged is an error, never a fresh start."""
        with self.open_store(tmp_path) as store:
            store.save(1, _state(1)).result()
        for file in ("model.json", "manifest.json"):
            self.damage(tmp_path, "step-00000001", file)
            with warnings.catch_warnings(), _raises(CheckpointDamagedError):
                warnings.simplefilter("ignore")
                self.open_reader(tmp_path).load("latest")

    def test_retention_keeps_latest_and_best(self, tmp_path: Path) -> None:
        """Each from the other's rule; non-finite ones push no finite one out."""
        losses = [0.1, 0.5, 0.4, math.nan, math.nan, math.nan]
        keep = KeepLast(1) | KeepBest("loss", "min")
        with self.open_store(tmp_path, keep=keep) as store:
            for step, loss in enumerate(losses):
                store.save(step, _state(step), metrics={"loss": loss})
            store.wait()
            assert [entry.step for entry in store.list()] == [0, 2, 5]
        assert self.folders(tmp_path) == ["step-00000000", "step-00000002", "step-00000005"]

    def test_deletion_can_be_undone(self, tmp_path: Path) -> None:
        """What is deleted is gone for everybody, and comes back whole."""
        with self.open_store(tmp_path) as store:
            for step in (1, 2):
                store.save(step, _state(step))
            store.wait()
            store.delete(2)
            reader = self.open_reader(tmp_path)
            assert [entry.step for entry in reader.list()] == [1]
            with _raises(CheckpointNotFoundError, "which=2"):
                store.load(2)
            assert store.undelete().step == 2
            self.check_equal(reader.load("latest").parts, _state(2))

    def test_one_writer_is_named_to_the_next(self, tmp_path: Path) -> None:
        """A second store is refused while the first is open, readers never are."""
        with self.open_store(tmp_path) as store:
            store.save(1, _state(1)).result()
            with _raises(StoreOwnedError, "process \\d+ on"):
                self.open_store(tmp_path)
            assert self.open_reader(tmp_path).load().entry.step == 1
        self.open_store(tmp_path).close()
        with _raises(StoreClosedError):
            store.save(2, _state(2))

    def test_unfinished_saves_are_nobodys(self, tmp_path: Path) -> None:
        """Readers do not see them, the next owner sweeps them."""
        with self.open_store(tmp_path) as store:
            store.save(1, _state(1)).result()
        self.leave_unfinished(tmp_path)
        assert [entry.step for entry in self.open_reader(tmp_path).list()] == [1]
        self.open_store(tmp_path).close()
        assert not list(tmp_path.glob(".tmp-*"))

    def test_bad_input_is_refused_before_anything_happens(self, tmp_path: Path) -> None:
        """With the name and the value received, and no trace on disk."""
        with self.open_store(tmp_path) as store:
            bad: list[tuple[str, dict[str, Any]]] = [
                ("step=-1", {"step": -1, "parts": _state(1)}),
                ("step=True", {"step": True, "parts": _state(1)}),
                ("got parts=", {"step": 1, "parts": {}}),
                ("'../x'", {"step": 1, "parts": {"../x": 1}}),
                ("'manifest'", {"step": 1, "parts": {"manifest": 1}}),
                ("'a/b'", {"step": 1, "parts": {"model": {"a": {"b": object()}}}}),
                ("metrics", {"step": 1, "parts": _state(1), "metrics": {"loss": "low"}}),
                ("refers_to=-1", {"step": 1, "parts": _state(1), "refers_to": [-1]}),
                ("refers_to=3", {"step": 1, "parts": _state(1), "refers_to": 3}),
            ]
            for pattern, arguments in bad:
                with _raises(InvalidArgumentError, re.escape(pattern)):
                    store.save(**arguments)
            store.wait()
        assert self.folders(tmp_path) == []

    def test_the_manifest_says_all(self, tmp_path: Path) -> None:
        """Format first, required parts, relative names only."""
        with self.open_store(tmp_path) as store:
            entry = store.save(1, _state(1), metrics={"loss": math.nan}).result()
        text = (tmp_path / entry.name / "manifest.json").read_text("ascii")
        manifest = json.loads(text)
        assert text.startswith('{"format":1,')
        assert (manifest["required"], manifest["metrics"]) == (["model", "train"], {"loss": "NaN"})
        assert str(tmp_path) not in text
