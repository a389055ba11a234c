"""What a loop gets back is of the types it has: leaves, containers, dtypes, places.

A best epoch's state comes back from memory, from disk where memory is short, and out of a backup in
a process that begins anew. Each kind of state goes through all of that in `matrix_of_state.py`; here
are live states of other types than what was saved.
"""

import copy
import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import peakhold
from kinds_of_state import AdamState, Plain, TrainState, same
from peakhold import LoopHost


class Loop:
    """A loop that holds a state, and notes what it is given back."""

    def __init__(self, state):
        self.state, self.given = state, []

    def get_state(self):
        return {"state": self.state, "so that there is an array": np.zeros(2)}

    def set_state(self, state):
        self.given.append(state["state"])
        self.state = state["state"]

    def train(self, callbacks, states, *, crash=False):
        """An epoch for each state: the metric is its number."""
        host = LoopHost(get_state=self.get_state, set_state=self.set_state)
        run = peakhold.CallbackList(callbacks, host=host, epochs=9, verbose=0)
        run.on_train_begin()
        for epoch, state in states.items():
            run.on_epoch_begin(epoch)
            self.state = state
            run.on_epoch_end(epoch, {"m": epoch})
        if crash:
            run.on_epoch_begin(max(states) + 1)
            raise ZeroDivisionError
        run.on_train_end()


def stopper(**kwargs):
    return peakhold.EarlyStopping("m", mode="min", restore_best_weights=True, patience=9, **kwargs)


def from_memory(best, later, folder):
    """What the end of training gives back, kept in memory."""
    loop, keeper = Loop(best), stopper()
    loop.train([keeper], {0: best, 1: later})
    return [*loop.given, keeper.best_weights["state"]]


def from_disk(best, later, folder):
    """The same, with no memory for it."""
    loop, keeper = Loop(best), stopper(memory_budget=1)
    loop.train([keeper], {0: best, 1: later})
    assert keeper._peakhold_link.participant._spill is not None
    return [*loop.given, keeper.best_weights["state"]]


def from_backup(best, later, folder):
    """What a resume gives back, and then the end of training, out of the backup, too."""
    callbacks = [stopper(), peakhold.BackupAndRestore(folder)]
    with pytest.raises(ZeroDivisionError):
        Loop(best).train(callbacks, {0: best, 1: best}, crash=True)
    loop, keeper = Loop(later), stopper()
    loop.train([keeper, peakhold.BackupAndRestore(folder)], {2: later})
    assert len(loop.given) >= 2
    return [*loop.given, keeper.best_weights["state"]]


WAYS = [from_memory, from_disk, from_backup]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "backup"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        (7, jnp.int32(0), jnp.int32(7)),
        (7, torch.zeros(()), torch.tensor(7.0)),
        (7, np.zeros((), np.int16), np.array(7, np.int16)),
        (jnp.int32(7), 0, 7),
        (torch.tensor(7.0), 0, 7),
        (np.float64(0.5), 1.0, 0.5),
        (np.array(0.5), 1, 0.5),  # no int has this value
        (np.ones(3), jnp.zeros(3, jnp.bfloat16), jnp.ones(3, jnp.bfloat16)),
        (jnp.ones(3), np.zeros(3, np.float64), np.ones(3)),
        (np.ones(3, np.float32), torch.zeros(3, dtype=torch.bfloat16), torch.ones(3).bfloat16()),
        (torch.ones(3).bfloat16(), np.zeros(3, np.float32), np.ones(3, np.float32)),
        (np.array([0.5]), np.zeros(1, np.int64), np.array([0.5])),  # nothing is lost to a cast
        ({"a": jnp.ones(2)}, OrderedDict(a=jnp.zeros(2)), OrderedDict(a=jnp.ones(2))),
        ([jnp.ones(2)], (jnp.zeros(2),), (jnp.ones(2),)),
        ({"a": 1, "b": np.ones(2)}, {"b": np.zeros(2)}, {"b": np.ones(2), "a": 1}),
        ({"a": 1}, {"a": 2, "b": 3}, {"a": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_the_live_kind_wins(way, was, now, expected, folder):
    for given in way({"leaf": was}, {"leaf": now}, folder):
        same(given, {"leaf": expected})


@pytest.mark.parametrize("way", WAYS)
def test_what_was_given_back_is_the_loops_own(way, folder):
    best = {"w": np.zeros(3), "t": torch.zeros(3), "n": [0]}
    firsts = way(best, copy.deepcopy(best), folder)
    for given in firsts:
        given["w"][...] = 5
        given["t"][...] = 5
        given["n"].append(5)
    for i, one in enumerate(firsts):
        for other in firsts[:i]:
            assert not np.shares_memory(one["w"], other["w"])
            assert one["t"].data_ptr() != other["t"].data_ptr() and one["n"] is not other["n"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.narrow = torch.nn.Linear(4, 8, dtype=torch.bfloat16)
        self.norm = torch.nn.BatchNorm1d(8)
        self.wide = torch.nn.Linear(8, 1)
        self.register_buffer("scale", torch.ones(3).to(torch.float8_e4m3fn))

    def forward(self, x):
        return self.wide(self.norm(self.narrow(x.bfloat16()).float()))


def train(folder, *, crash_at=None, seed=0, optimizer=torch.optim.Adam, epochs=5, budget=None):
    """A loop of PyTorch, whose second epoch is the best; the state before the end and after."""
    torch.manual_seed(seed)
    net = Net()
    torch.manual_seed(1)
    optimizer = optimizer(net.parameters(), lr=0.01)
    keeper = stopper(restore_optimizer=True, memory_budget=budget)
    backup = peakhold.BackupAndRestore(folder)
    run = peakhold.CallbackList([keeper, backup], net, optimizer=optimizer, epochs=epochs)
    run.on_train_begin()
    x = torch.linspace(-1, 1, 32).reshape(8, 4)
    for epoch in range(backup.initial_epoch, epochs):
        run.on_epoch_begin(epoch)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        if epoch == crash_at:
            raise ZeroDivisionError
        run.on_epoch_end(epoch, {"m": (3, 1, 2, 4, 5)[epoch]})
    last = copy.deepcopy([net.state_dict(), optimizer.state_dict()])
    run.on_train_end()
    return last, [net.state_dict(), optimizer.state_dict()]


@pytest.mark.parametrize("budget", [None, 1])
@pytest.mark.parametrize("crash_at", [1, 3])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW])
def test_a_resumed_loop_of_torch_goes_on_and_ends_as_the_whole_one(
    optimizer, crash_at, budget, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = train(tmp_path / "whole", optimizer=optimizer, budget=budget)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "killed", crash_at=crash_at, optimizer=optimizer, budget=budget)
    resumed = train(tmp_path / "killed", seed=5, optimizer=optimizer, budget=budget)
    for one, other in zip(resumed, whole, strict=True):
        same(one, other)


def test_without_ml_dtypes_bfloat16_resumes_all_the_same(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "killed", crash_at=3)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # a PyTorch without JAX or Keras
    resumed = train(tmp_path / "killed", seed=5)
    for one, other in zip(resumed, whole, strict=True):
        same(one, other)


def test_states_of_any_container_are_looked_through_for_nan(tmp_path):
    broken = TrainState({"w": jnp.array([1.0, jnp.nan])}, (AdamState(0, jnp.zeros(1), None),))
    host = LoopHost(get_state=lambda: [Plain(broken)], set_state=lambda _: None)
    assert len(host.nonfinite()) == 1
    assert host.nonfinite_in(host.borrow(["weights"])) == host.nonfinite()


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from peakhold import LoopHost

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
halves = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec("x")))
everywhere = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec()))
second = jax.device_put(jnp.arange(4.0), jax.devices()[1])
keys = jax.device_put(jax.random.split(jax.random.key(1), 2), NamedSharding(mesh, PartitionSpec("x")))
live, given = [halves, everywhere, second, keys], []
host = LoopHost(get_state=lambda: live, set_state=given.append)
host.restore({"weights": [np.arange(4.0) + 9, np.arange(4.0), np.ones(4),
                          np.asarray(jax.random.key_data(jax.random.split(jax.random.key(2), 2)))]})
assert [x.sharding for x in given[0]] == [x.sharding for x in live]
assert len(halves.sharding.device_set) == 2
assert given[0][0].tolist() == [9, 10, 11, 12]
assert (given[0][3] == jax.random.split(jax.random.key(2), 2)).all()
"""


def test_what_lies_on_several_devices_goes_back_to_them():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", SHARDED], env=environment, check=True, timeout=300)


def test_a_pickled_callback_still_shows_its_best_weights(folder):
    loop, keeper = Loop({"w": np.ones(2)}), stopper()
    loop.train([keeper], {0: loop.state, 1: {"w": np.zeros(2)}})
    again = pickle.loads(pickle.dumps(keeper))
    assert again.best_weights["state"]["w"].tolist() == [1, 1]


def test_a_donated_state_is_replaced_all_the_same():
    """Donation leaves the live arrays without values, but not without types."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = AdamState(jnp.int32(0), jnp.zeros(3), jnp.zeros(3, jnp.bfloat16))
    given = []
    host = LoopHost(get_state=lambda: state, set_state=given.append)
    copied = copy.deepcopy(host.borrow(["weights"]))
    step(state)
    assert state.mu.is_deleted()
    host.restore(copied)
    same(given[0], AdamState(jnp.int32(0), jnp.zeros(3), jnp.zeros(3, jnp.bfloat16)))
