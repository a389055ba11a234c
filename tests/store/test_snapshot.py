"""The snapshot is never torn, whatever changes right after `save` returns; buffers are reused."""

import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from peakhold.errors import SaveReplacedError
from peakhold.files import background
from peakhold.store import HostBuffers, Reader, Store, draft


class Held:
    """Holds the process's writer thread until it is let go."""

    def __enter__(self):
        self.go = threading.Event()
        entered = threading.Event()
        background.submit(lambda: (entered.set(), self.go.wait(60)))
        assert entered.wait(60)
        return self

    def __exit__(self, *_):
        self.go.set()


class NumPyState:
    def __init__(self):
        self.arrays = {
            "w": np.zeros((30, 30), np.float32),
            "b": np.zeros(7)[::2],
            "step": np.zeros(()),
        }

    def parts(self):
        return {"model": self.arrays}

    def change(self, value):
        for array in self.arrays.values():
            array[...] = value


class TorchState:
    """Weights, an optimizer's 0-dim step, BatchNorm's buffers: all are changed in place."""

    def __init__(self):
        self.model = torch.nn.Sequential(torch.nn.Linear(9, 9), torch.nn.BatchNorm1d(9))
        self.step = torch.zeros(())
        self.half = torch.zeros(11, dtype=torch.bfloat16)
        self.change(0)

    def parts(self):
        return {
            "model": self.model.state_dict(),
            "optimizer": {"step": self.step, "half": self.half},
        }

    def change(self, value):
        with torch.no_grad():
            for tensor in [*self.model.state_dict().values(), self.step, self.half]:
                tensor.fill_(value % 256)


class JaxState:
    """JAX arrays are immutable, but a donated buffer is written over by the next step."""

    def __init__(self):
        self.step = jax.jit(lambda tree, v: jax.tree.map(lambda x: x * 0 + v.astype(x.dtype), tree),
                            donate_argnums=0)  # fmt: skip
        self.tree = {"w": jnp.zeros((20, 20)), "h": jnp.zeros(9, jnp.bfloat16), "n": jnp.zeros(())}

    def parts(self):
        return {"model": self.tree}

    def change(self, value):
        old = self.tree["w"]
        self.tree = jax.block_until_ready(self.step(self.tree, jnp.float32(value % 256)))
        assert old.is_deleted() or value == 0


@pytest.mark.parametrize("n_rounds", [200, pytest.param(1000, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", [NumPyState, TorchState, JaxState])
def test_a_snapshot_is_never_torn(tmp_path, kind, n_rounds):
    state, reader = kind(), Reader(tmp_path)
    torn = 0
    with Store(tmp_path, undo=0) as store:
        for value in range(1, n_rounds + 1):
            state.change(value)
            with Held():
                pending = store.save(value, state.parts())
                state.change(value + 1)  # everything, before a byte is written
                assert not pending.done
            entry = pending.result()
            parts = reader.load(entry).parts
            for part in parts.values():
                for name, array in part.items():
                    torn += not (np.asarray(array, np.float64) == value % 256 if kind is not NumPyState
                                 else array == value).all()  # fmt: skip
            if value % 50 == 0:
                for old in store.list():
                    store.delete(old)
    print(f"{torn} of {n_rounds} snapshots torn ({kind.__name__})")
    assert torn == 0


def test_plain_values_and_structure_are_taken_too(tmp_path):
    tree = {"rates": [0.1, 0.2], "nested": {"a": [1]}}
    with Store(tmp_path) as store:
        with Held():
            store.save(1, {"train": tree})
            tree["rates"][0] = 9
            tree["nested"]["a"].append(2)
            tree["late"] = True
        store.wait()
        assert store.load()["train"] == {"rates": [0.1, 0.2], "nested": {"a": [1]}}


def test_immutable_arrays_are_not_copied(tmp_path):
    array = np.zeros(1000)
    with Store(tmp_path) as store:
        with Held():
            store.save(1, {"m": {"a": array, "strided": array[::2]}}, immutable=True)
            array[...] = 5  # a broken promise shows that nothing was copied
        store.wait()
        np.testing.assert_array_equal(store.load()["m"]["a"], array)
        assert store._slots[0].buffers.nbytes == 0


def test_buffers_are_allocated_once_and_reused(tmp_path):
    state = {"m": {"a": np.zeros(100_000), "b": np.zeros(7, np.int8)}}
    with Store(tmp_path) as store:
        store.prepare(state)
        assert os.listdir(tmp_path) == [".lock"], "prepare writes nothing"
        (slot,) = store._slots
        memory = slot.buffers._memory.data
        assert memory.nbytes >= 800_007
        for step in range(3):
            store.save(step, state).result()
        assert slot.buffers._memory.data is memory
        store.save(9, {"m": {"a": np.zeros(10)}}).result()  # smaller: the memory is kept
        assert slot.buffers._memory.data is memory
        store.save(10, {"m": {"a": np.zeros(300_000)}}).result()
        assert slot.buffers.nbytes >= 2_400_000


def test_a_snapshot_without_a_store():
    """What drop-ins that write files of their own use."""
    arrays = [np.arange(5.0), np.arange(3, dtype=np.int8)]
    buffers = HostBuffers()
    snapshot = buffers.take(draft({"weights": arrays}))
    for array in arrays:
        array[...] = -1
    copies = {spec.name: bytes(data) for spec, data in snapshot.tensors("weights")}
    assert copies == {"0": np.arange(5.0).tobytes(), "1": np.arange(3, dtype=np.int8).tobytes()}


def test_a_second_save_waits_for_the_first(tmp_path):
    state = {"m": {"a": np.zeros(10)}}
    with Store(tmp_path) as store:
        with Held() as held:
            store.save(1, state)
            threading.Timer(0.05, held.go.set).start()
            state["m"]["a"][...] = 2
            store.save(2, state)  # returns only when the first is durable
        store.wait()
        assert (store.stats.waited, store.stats.replaced, store.stats.committed) == (1, 0, 2)
        assert store.stats.last_wait_s > 0 and "1 waited" in repr(store)
        assert [store.load(step)["m"]["a"][0] for step in (1, 2)] == [0, 2]


def test_a_waiting_save_is_replaced_by_a_newer_one(tmp_path):
    state = {"m": {"a": np.zeros(10)}}
    pendings = []
    with Store(tmp_path, when_busy="replace") as store:
        with Held():
            for step in range(6):
                state["m"]["a"][...] = step
                pendings.append(store.save(step, state))
        store.wait()
        assert [p.replaced for p in pendings] == [True, False, True, True, True, False] or [
            p.replaced for p in pendings
        ].count(False) == 2
        with pytest.raises(SaveReplacedError, match="step=2"):
            pendings[2].result()
        assert (store.stats.replaced, store.stats.failed, store.stats.waited) == (4, 0, 0)
        kept = [p.step for p in pendings if not p.replaced]
        assert kept[-1] == 5
        assert [entry.step for entry in store.list()] == kept
        assert [store.load(step)["m"]["a"][0] for step in kept] == kept


def test_over_the_memory_limit_the_state_is_written_before_save_returns(tmp_path):
    array = np.zeros(10_000)
    with Store(tmp_path, memory_limit=50_000) as store:
        store.prepare({"m": {"a": array}})
        pending = store.save(1, {"m": {"a": array}})
        assert pending.done and store._slots[0].buffers.nbytes == 0
        store.save(2, {"m": {"a": array[:100]}})
        assert store._slots[0].buffers.nbytes > 0


def test_non_finite_tensors_are_seen_while_they_are_written(tmp_path):
    rng = np.random.default_rng(0)
    for dtype in ("float16", "float32", "float64", "complex64", "complex128", "bfloat16"):
        clean = rng.standard_normal(300_001).astype(np.float32)
        clean[0], clean[1] = np.finfo("f2").max, np.finfo("f2").min
        for bad in (None, np.nan, np.inf, -np.inf, -np.nan):
            array = clean.copy()
            if bad is not None:
                array[rng.integers(2, len(array))] = bad
            tensor = (
                torch.from_numpy(array).bfloat16() if dtype == "bfloat16" else array.astype(dtype)
            )
            with Store(tmp_path / f"{dtype}{bad!r}") as store:
                assert store.save(1, {"m": {"x": tensor}}).result().finite == (bad is None)
                assert store.list()[0].finite == (bad is None)
