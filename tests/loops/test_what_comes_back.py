"""What a loop gets back is of the types it has: leaves, containers, dtypes, places.

A best epoch's state comes back from memory, from disk where memory is short, and out of a backup in
a process that begins anew; each kind of state takes each of the ways.
"""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import peakhold
from peakhold import LoopHost


class AdamState(NamedTuple):
    """As Optax's `ScaleByAdamState`."""

    count: Any
    mu: Any
    nu: Any


class Empty(NamedTuple):
    """As Optax's `EmptyState`."""


@dataclasses.dataclass
class Plain:
    """Not known to JAX."""

    weights: Any
    name: str = "plain"


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    weights: Any
    total: int = dataclasses.field(init=False, default=0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    params: Any
    opt_state: Any
    apply: Any = dataclasses.field(metadata={"static": True}, default=sys.intern)


@jax.tree_util.register_pytree_node_class
class Node:
    """A node that only JAX can take apart."""

    def __init__(self, inner, label):
        self.inner, self.label = inner, label

    def tree_flatten(self):
        return (self.inner,), self.label

    @classmethod
    def tree_unflatten(cls, label, children):
        return cls(*children, label)


class Named(dict):
    """A mapping with an attribute, as the `_metadata` of PyTorch's state dicts."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.note = "kept"


def mesh():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))


def sharded(value):
    places = jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec("x"))
    return jax.device_put(jnp.full((4,), value, jnp.float32), places)


def parameter(value):
    return torch.nn.Parameter(torch.full((2,), float(value)))


# A state with the value that is given, for each kind of leaf, …
LEAVES = {
    "numpy": lambda v: np.full((2, 3), v, np.float32),
    "numpy 0-d": lambda v: np.full((), v, np.int16),
    "numpy empty": lambda v: np.zeros((0, 3)),
    "numpy scalar": np.float32,
    "numpy bfloat16": lambda v: np.full(3, v, jnp.bfloat16),
    "number": float,
    "text": str,
    "none": lambda v: None,
    "bytes": lambda v: bytes([v]),
    "torch": lambda v: torch.full((2, 3), float(v)),
    "torch 0-d": torch.tensor,
    "torch empty": lambda v: torch.zeros((0, 3)),
    "torch bfloat16": lambda v: torch.full((3,), float(v), dtype=torch.bfloat16),
    "torch bfloat16 0-d": lambda v: torch.tensor(float(v), dtype=torch.bfloat16),
    "torch float8": lambda v: torch.full((3,), float(v)).to(torch.float8_e4m3fn),
    "torch float8 e5m2": lambda v: torch.full((3,), float(v)).to(torch.float8_e5m2),
    "torch float16": lambda v: torch.full((3,), float(v), dtype=torch.float16),
    "torch complex": lambda v: torch.full((3,), v, dtype=torch.complex64),
    "torch bool": lambda v: torch.tensor([v == 1, v == 2]),
    "torch parameter": parameter,
    "torch leaf of a graph": lambda v: torch.full((3,), float(v), requires_grad=True),
    "jax": lambda v: jnp.full((2, 3), v, jnp.float32),
    "jax 0-d": jnp.int32,
    "jax weak": lambda v: jnp.full((2,), float(v)),
    "jax weak 0-d": lambda v: jnp.asarray(float(v)),
    "jax bfloat16": lambda v: jnp.full((3,), v, jnp.bfloat16),
    "jax float8": lambda v: jnp.full((3,), v, jnp.float8_e4m3fn),
    "jax key": jax.random.key,
    "jax keys": lambda v: jax.random.split(jax.random.key(v, impl="rbg"), 3),
    "jax raw key": jax.random.PRNGKey,
    "jax sharded": sharded,
    "jax committed": lambda v: jax.device_put(jnp.full((3,), v), jax.devices()[0]),
}
# … and of container.
CONTAINERS = {
    "dict": lambda v: {"a": {"b": np.full(3, v)}},
    "numbered": lambda v: {0: np.full(3, v), (1, "x"): v},
    "list and tuple": lambda v: [np.full(3, v), (np.full(1, v), [v])],
    "ordered": lambda v: OrderedDict(z=jnp.full((1,), v), a=jnp.full((2,), v)),
    "defaultdict": lambda v: defaultdict(list, a=np.full(2, v)),
    "with an attribute": lambda v: Named(a=np.full(2, v)),
    "named tuples": lambda v: (
        Empty(),
        AdamState(jnp.int32(v), {"w": jnp.full((2,), v)}, {"w": jnp.full((2,), -v)}),
        Empty(),
    ),
    "dataclass": lambda v: Plain({"w": np.full(2, v)}),
    "dataclass of torch": lambda v: Plain([torch.full((2,), float(v))]),
    "frozen": lambda v: Frozen(np.full(2, v)),
    "registered dataclass": lambda v: TrainState(
        {"w": jnp.full((2,), v)}, (AdamState(v, jnp.full((1,), v), None),)
    ),
    "registered node": lambda v: {"node": Node([jnp.full((2,), v), Node(v, "in")], "out")},
}


def same(one, other, path="state"):
    """Fails at the first place where two states differ in type or value."""
    assert type(one) is type(other), path
    if isinstance(other, Mapping):
        assert list(one) == list(other), path
        assert vars(one) == vars(other) if hasattr(other, "__dict__") else True, path
        for key in other:
            same(one[key], other[key], f"{path}.{key}")
    elif isinstance(other, (list, tuple)):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{path}.{index}")
    elif dataclasses.is_dataclass(other):
        for field in dataclasses.fields(other):
            same(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(other, Node):
        same(vars(one), vars(other), path)
    elif isinstance(other, torch.Tensor):
        assert (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape), path
        assert (one.requires_grad, one.is_leaf) == (other.requires_grad, other.is_leaf), path
        assert torch.equal(one.to(torch.complex64), other.to(torch.complex64)), path
    elif isinstance(other, jax.Array):
        assert one.aval == other.aval, path
        assert (one.sharding, one.committed) == (other.sharding, other.committed), path
        if jax.dtypes.issubdtype(other.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(one) == jax.random.key_impl(other), path
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert np.array_equal(np.asarray(one), np.asarray(other)), path
    elif isinstance(other, (np.ndarray, np.generic)):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        assert one.tobytes() == other.tobytes(), path
        assert not isinstance(one, np.ndarray) or one.flags.writeable, path
    else:
        assert one == other, path


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
@pytest.mark.parametrize("kind", LEAVES)
def test_a_leaf_comes_back_as_what_it_was(way, kind, folder):
    make = LEAVES[kind]
    for given in way({"leaf": make(1)}, {"leaf": make(2)}, folder):
        same(given, {"leaf": make(1)})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_comes_back_as_what_it_was(way, kind, folder):
    make = CONTAINERS[kind]
    for given in way(make(1), make(2), folder):
        same(given, make(1))


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
