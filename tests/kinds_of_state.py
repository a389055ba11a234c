"""Kinds of state that people train, as data: leaves, containers, modules, optimizers, wrappers.

Each is a `Kind`: what it is called, and how a subject of it begins. A subject is one process's
model, loop and state; `matrix_of_state.py` sends each through all that holds or writes a state.
"""

import copy
import dataclasses
import fractions
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

import peakhold
from peakhold import LoopHost
from peakhold.host.onto_live import taken_apart
from peakhold.trees import leaf_list, leaves

# Containers that people have


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


@jax.tree_util.register_pytree_node_class
class FrozenDict(Mapping):
    """As Flax's: a mapping that cannot be changed, and whose order JAX sees sorted."""

    def __init__(self, members):
        self._members = dict(members)

    def __getitem__(self, key):
        return self._members[key]

    def __iter__(self):
        return iter(self._members)

    def __len__(self):
        return len(self._members)

    def tree_flatten(self):
        keys = sorted(self._members)
        return [self._members[key] for key in keys], keys

    @classmethod
    def tree_unflatten(cls, keys, children):
        return cls(zip(keys, children, strict=True))


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


def channels_last(value):
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4) + value
    return tensor.to(memory_format=torch.channels_last)


def conjugate(value):
    return torch.complex(torch.ones(3), torch.full((3,), float(value))).conj()


def negative(value):
    """A view of the imaginary part of a conjugate: its minus is a flag, not in memory."""
    view = conjugate(value).imag
    assert view.is_neg()
    return view


def coo(value):
    indices = [[0, 2], [1, 0]]
    return torch.sparse_coo_tensor(indices, [float(value), 2.0], (3, 2)).coalesce()


def csr(value):
    return torch.sparse_csr_tensor([0, 1, 2], [1, 0], [float(value), 2.0], (2, 2))


# A state with the value that is given, for each kind of leaf, …
LEAVES = {
    "numpy": lambda v: np.full((2, 3), v, np.float32),
    "numpy 0-d": lambda v: np.full((), v, np.int16),
    "numpy empty": lambda v: np.zeros((0, 3)),
    "numpy scalar": np.float32,
    "numpy bfloat16": lambda v: np.full(3, v, jnp.bfloat16),
    "numpy float8": lambda v: np.full(3, v, jnp.float8_e5m2),
    "numpy int4": lambda v: np.full(3, v, jnp.int4),
    "numpy complex128": lambda v: np.full(3, v * 1j),
    "numpy big-endian": lambda v: np.full(3, v, ">f4"),
    "numpy text": lambda v: np.array([str(v), "b"]),
    "numpy dates": lambda v: np.array([v, 2], "datetime64[s]"),
    "numpy objects": lambda v: np.array([v, None], object),
    "number": float,
    "whole number": int,
    "complex number": lambda v: complex(v, 1),
    "text": str,
    "none": lambda v: None,
    "bytes": lambda v: bytes([v]),
    "function": lambda v: len,
    "set": lambda v: {v},
    "torch": lambda v: torch.full((2, 3), float(v)),
    "torch 0-d": torch.tensor,
    "torch empty": lambda v: torch.zeros((0, 3)),
    "torch bfloat16": lambda v: torch.full((3,), float(v), dtype=torch.bfloat16),
    "torch bfloat16 0-d": lambda v: torch.tensor(float(v), dtype=torch.bfloat16),
    "torch float8": lambda v: torch.full((3,), float(v)).to(torch.float8_e4m3fn),
    "torch float8 e5m2": lambda v: torch.full((3,), float(v)).to(torch.float8_e5m2),
    "torch float16": lambda v: torch.full((3,), float(v), dtype=torch.float16),
    "torch complex": lambda v: torch.full((3,), v, dtype=torch.complex64),
    "torch complex128": lambda v: torch.full((3,), v * 1j, dtype=torch.complex128),
    "torch uint16": lambda v: torch.full((3,), v, dtype=torch.uint16),
    "torch bool": lambda v: torch.tensor([v == 1, v == 2]),
    "torch parameter": parameter,
    "torch leaf of a graph": lambda v: torch.full((3,), float(v), requires_grad=True),
    "torch channels_last": channels_last,
    "torch transposed": lambda v: (torch.arange(6.0).reshape(2, 3) + v).t(),
    "torch expanded": lambda v: torch.tensor([float(v)]).expand(3),
    "torch conjugate": conjugate,
    "torch negative": negative,
    "torch sparse COO": coo,
    "torch sparse CSR": csr,
    "torch int4": lambda v: torch.full((2,), v, dtype=torch.uint8).view(torch.int4),
    "torch quantized": lambda v: torch.quantize_per_tensor(
        torch.full((3,), float(v)), 0.1, 0, torch.qint8
    ),
    "torch meta": lambda v: torch.zeros(3, device="meta"),
    "jax": lambda v: jnp.full((2, 3), v, jnp.float32),
    "jax 0-d": jnp.int32,
    "jax weak": lambda v: jnp.full((2,), float(v)),
    "jax weak 0-d": lambda v: jnp.asarray(float(v)),
    "jax bfloat16": lambda v: jnp.full((3,), v, jnp.bfloat16),
    "jax float8": lambda v: jnp.full((3,), v, jnp.float8_e4m3fn),
    "jax int4": lambda v: jnp.full((3,), v, jnp.int4),
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
    "OrderedDict": lambda v: OrderedDict(z=jnp.full((1,), v), a=jnp.full((2,), v)),
    "defaultdict": lambda v: defaultdict(list, a=np.full(2, v)),
    "dict with an attribute": lambda v: Named(a=np.full(2, v)),
    "FrozenDict": lambda v: FrozenDict({"z": jnp.full((1,), v), "a": jnp.full((2,), v)}),
    "named tuples": lambda v: (
        Empty(),
        AdamState(jnp.int32(v), {"w": jnp.full((2,), v)}, {"w": jnp.full((2,), -v)}),
        Empty(),
    ),
    "dataclass": lambda v: Plain({"w": np.full(2, v)}),
    "dataclass of torch": lambda v: Plain([torch.full((2,), float(v))]),
    "frozen dataclass": lambda v: Frozen(np.full(2, v)),
    "registered dataclass": lambda v: TrainState(
        {"w": jnp.full((2,), v)}, (AdamState(v, jnp.full((1,), v), None),)
    ),
    "registered node": lambda v: {"node": Node([jnp.full((2,), v), Node(v, "in")], "out")},
}


def circle(value):
    state = {"w": np.full(2, value)}
    state["again"] = state
    return state


def same(one, other, path="state"):
    """Fails at the first place where two states differ in type or value."""
    assert type(one) is type(other), (path, type(one), type(other))
    if isinstance(other, Mapping):
        assert list(one) == list(other), path
        if not isinstance(other, FrozenDict):
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
        assert one.layout == other.layout, path
        same_values(one, other, path, strides=path.startswith("state.model"))
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


def is_dense(tensor):
    return torch.empty_like(tensor).stride() == tensor.stride()


def same_values(one, other, path, *, strides=True):
    if other.layout is not torch.strided:
        one, other = one.to_dense(), other.to_dense()
    elif strides and is_dense(one) and is_dense(other):
        assert one.stride() == other.stride(), path
    wide = torch.complex128 if other.is_complex() else torch.float64
    if other.dtype in {torch.int64, torch.uint64, torch.bool}:
        wide = other.dtype
    assert torch.equal(one.detach().to(wide), other.detach().to(wide)), path


def frozen(state):
    """A copy for comparing."""
    if isinstance(state.get("model"), dict) and "again" in state["model"]:
        return copy.deepcopy(state)  # a circle
    tensors = [leaf for leaf in leaf_list(state) if isinstance(leaf, torch.Tensor)]
    sparse = {id(one): one.clone() for one in tensors if one.layout is not torch.strided}
    return copy.deepcopy(state, sparse)


# Subjects


class State:
    """A loop whose state is a value: it has another one in each epoch."""

    suffix = ".safetensors"

    def __init__(self, make):
        self.make, self.given = make, []
        self.live = make(9)

    def set(self, state):
        self.live = state["state"]
        self.given.append(self.live)

    def get(self):
        return {"state": self.live, "so that there is an array": np.zeros(2)}

    def callbacks(self, callbacks, **params):
        host = LoopHost(get_state=self.get, set_state=self.set)
        return peakhold.CallbackList(callbacks, host=host, **params)

    def epoch(self, number):
        self.live = self.make(number + 1)

    def parts(self):
        return {"model": self.live}

    def give_back(self, parts):
        self.live = peakhold.like_live(parts["model"], self.live)

    def read(self, path):
        """A file holds arrays by name; the loop knows where they belong."""
        from safetensors.torch import load_file

        arrays = dict(leaves(taken_apart(self.get()), convert=False))
        named = load_file(path)
        assert named.keys() == arrays.keys()
        for name, leaf in arrays.items():
            if isinstance(leaf, torch.Tensor):
                same_values(named[name], leaf.detach(), name, strides=False)
            else:
                array = np.asarray(leaf)
                assert str(named[name].dtype)[6:] == array.dtype.name
                got = named[name].contiguous().reshape(-1).view(torch.uint8).numpy()
                assert got.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


class Jitted(State):
    """A count that is a number until the first step has gone through `jax.jit`."""

    def __init__(self):
        super().__init__(lambda value: {"step": value, "w": jnp.full((2,), value)})

    def epoch(self, number):
        self.live = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree))(self.live)

    def parts(self):
        return {"model": {"step": int(self.live["step"]), "w": self.live["w"]}}


class Module:
    """A loop of PyTorch over a module and its optimizer."""

    suffix = ".safetensors"

    def __init__(self, build, optimizer=None, forward=None):
        self.model = build()
        self.optimizer = None if optimizer is None else optimizer(self.model)
        self.inputs = torch.linspace(-1, 1, 32).reshape(8, 4)
        self.forward = forward or (lambda model, x: model(x).float().square().mean())

    def callbacks(self, callbacks, **params):
        return peakhold.CallbackList(callbacks, self.model, optimizer=self.optimizer, **params)

    def epoch(self, number):
        def closure():
            self.optimizer.zero_grad()
            loss = self.forward(self.model, self.inputs + number)
            loss.backward()
            return loss

        if self.optimizer is None:
            with torch.no_grad():
                for tensor in self.model.parameters():
                    tensor.add_(number + 1)
        else:
            self.optimizer.step(closure)

    def parts(self):
        parts = {"model": self.model.state_dict()}
        if self.optimizer is not None:
            parts["optimizer"] = self.optimizer.state_dict()
        return parts

    def give_back(self, parts):
        peakhold.give_back(parts["model"], self.model)
        if self.optimizer is not None:
            peakhold.give_back(parts["optimizer"], self.optimizer)

    def read(self, path):
        from safetensors.torch import load_file

        kept = frozen(self.model.state_dict())
        for tensor in self.model.state_dict().values():
            tensor.zero_()
        named = load_file(path)
        assert not any("_orig_mod" in name for name in named)
        peakhold.give_back(named, self.model)
        same(self.model.state_dict(), kept)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One row of the table.

    Args:
        name: What people call it.
        start: A fresh subject; each call is another process, with other values.
        of: The table that it stands in.
        leaf: Part of the leaf's name, where it is refused.
        also: Other subjects that it must come back in as well, as a model that is wrapped otherwise.
    """

    name: str
    start: Callable[[], Any]
    of: str
    leaf: str = "leaf"
    also: tuple[Callable[[], Any], ...] = ()


def _leaf_kinds():
    titles = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}
    for name, make in LEAVES.items():
        of = titles.get(name.split()[0], "Python")
        yield Kind(name, lambda make=make: State(lambda v: {"leaf": make(v)}), f"Leaves of {of}")
    for name, make in CONTAINERS.items():
        yield Kind(name, lambda make=make: State(make), "Containers", "state")
    yield Kind("a number that jit makes an array", Jitted, "Containers")
    yield Kind("a circle", lambda: State(circle), "Containers", "again")


class Extra(torch.nn.Linear):
    """A module with a state that is no tensor."""

    def __init__(self, extra):
        super().__init__(4, 2)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class WithBuffer(torch.nn.Linear):
    def __init__(self, make):
        super().__init__(4, 2)
        self.register_buffer("leaf", make(1))


class Tied(torch.nn.Module):
    """Two names for one matrix, the second one seen transposed."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 3, bias=False)
        self.register_buffer("outer", self.inner.weight.data.t())

    def forward(self, x):
        return self.inner(x) @ self.inner.weight


class ChannelsLast(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 2)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.conv(x.reshape(-1, 2, 2, 4))


class ChildCalledModule(torch.nn.Module):
    """Its child is called as what wraps other people's models."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.module(x)


def in_one_process(model):
    """A group of this process alone, for as long as a cell takes: see `leave_group`."""
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    return torch.nn.parallel.DistributedDataParallel(model)


def leave_group():
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "plain": lambda model: model,
    "`torch.compile`": compiled,
    "`DataParallel`": torch.nn.DataParallel,
    "`DistributedDataParallel`": in_one_process,
    "`DataParallel` of `torch.compile`": lambda model: torch.nn.DataParallel(compiled(model)),
    "`DistributedDataParallel` of `torch.compile`": lambda model: in_one_process(compiled(model)),
    "`torch.compile` of `DistributedDataParallel`": lambda model: compiled(in_one_process(model)),
}


class Wrapped(Module):
    """What it holds is looked at without the wrapper; a file has the names of that."""

    def __init__(self, build, wrap):
        self.build, self.bare = build, build()
        super().__init__(lambda: wrap(self.bare), adam)

    def parts(self):
        return {"model": self.bare.state_dict(), "optimizer": self.optimizer.state_dict()}

    def read(self, path):
        from safetensors.torch import load_file

        kept, named = self.bare.state_dict(), load_file(path)
        assert set(named) == set(kept)
        for wrap in WRAPPERS.values():
            fresh = Wrapped(self.build, wrap)
            peakhold.give_back(named, fresh.model)
            same(fresh.bare.state_dict(), kept)


def _wrapped_kinds():
    """Each comes back in a model that is wrapped in any way."""
    for build, what in ((linear, ""), (ChildCalledModule, ", a child called `module`")):
        starts = [lambda build=build, wrap=wrap: Wrapped(build, wrap) for wrap in WRAPPERS.values()]
        for name, start in zip(WRAPPERS, starts, strict=True):
            also = tuple(other for other in starts if other is not start)
            yield Kind(f"{name}{what}", start, "Wrappers of PyTorch", also=also)


class InnerCompiled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(torch.nn.Linear(4, 2), backend="eager")

    def forward(self, x):
        return self.net(x)


class NarrowMoments(torch.optim.SGD):
    """Keeps its moments in a type that is narrower than the weights, as 8-bit optimizers do."""

    dtype = torch.float8_e5m2

    def step(self, closure):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                before = state.get("moment", torch.zeros_like(p)).float()
                state["moment"] = (before * 0.5 + p.grad).to(self.dtype)
                state["step"] = state.get("step", 0) + 1
                state["kind"] = "narrow"
                with torch.no_grad():
                    p -= 0.1 * state["moment"].float()
        return loss


class ObjectMoments(NarrowMoments):
    dtype = torch.float32

    def step(self, closure):
        loss = super().step(closure)
        next(iter(self.state.values()))["leaf"] = fractions.Fraction(1, 3)
        return loss


def adam(model, **kwargs):
    return torch.optim.Adam(model.parameters(), lr=0.01, **kwargs)


def linear(dtype=torch.float32):
    return torch.nn.Linear(4, 2, dtype=dtype)


def lazy():
    return torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.ReLU(), torch.nn.LazyLinear(1))


def complex_loss(model, x):
    return model(x.to(torch.complex128)).abs().square().mean()


def _bf16(model, x):
    return model(x.bfloat16()).float().square().mean()


MODULES = {
    "float32, Adam": lambda: Module(linear, adam),
    "bfloat16 weights and moments": lambda: Module(lambda: linear(torch.bfloat16), adam, _bf16),
    "float8 moments, text beside them": lambda: Module(
        linear, lambda m: NarrowMoments(m.parameters(), lr=0.1)
    ),
    "complex128 weights": lambda: Module(lambda: linear(torch.complex128), adam, complex_loss),
    "channels_last": lambda: Module(ChannelsLast, adam),
    "tied, transposed": lambda: Module(Tied, adam),
    "float8 buffer": lambda: Module(lambda: WithBuffer(LEAVES["torch float8"]), adam),
    "conjugate buffer": lambda: Module(lambda: WithBuffer(conjugate), adam),
    "negative buffer": lambda: Module(lambda: WithBuffer(negative), adam),
    "sparse COO buffer": lambda: Module(lambda: WithBuffer(coo), adam),
    "sparse CSR buffer": lambda: Module(lambda: WithBuffer(csr), adam),
    "quantized buffer": lambda: Module(lambda: WithBuffer(LEAVES["torch quantized"]), adam),
    "int4 buffer": lambda: Module(lambda: WithBuffer(LEAVES["torch int4"]), adam),
    "meta buffer": lambda: Module(lambda: WithBuffer(LEAVES["torch meta"]), adam),
    "-inf buffer": lambda: Module(
        lambda: WithBuffer(lambda v: torch.full((2, 2), -torch.inf).triu(1)), adam
    ),
    "lazy modules": lambda: Module(lazy, adam),
    "get_extra_state: numbers and text": lambda: Module(
        lambda: Extra({"version": 2, "name": "a", "scale": torch.ones(2)}), adam
    ),
    "get_extra_state: a tensor": lambda: Module(lambda: Extra(torch.ones(2)), adam),
    "get_extra_state: an object": lambda: Module(lambda: Extra(fractions.Fraction(1, 3)), adam),
    "SGD with momentum": lambda: Module(
        linear, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
    ),
    "AMSGrad, capturable": lambda: Module(linear, lambda m: adam(m, amsgrad=True)),
    "LBFGS": lambda: Module(linear, lambda m: torch.optim.LBFGS(m.parameters(), max_iter=3)),
    "a tensor as learning rate": lambda: Module(
        linear, lambda m: torch.optim.Adam(m.parameters(), lr=torch.tensor(0.01))
    ),
    "an object among the moments": lambda: Module(
        linear, lambda m: ObjectMoments(m.parameters(), lr=0.1)
    ),
    "torch.compile inside": lambda: Module(InnerCompiled, adam),
    "no optimizer": lambda: Module(linear),
}
NAMES = {
    "get_extra_state: an object": "_extra_state",
    "get_extra_state: numbers and text": "_extra_state.name",
    "complex128 weights": "weight",
}

KINDS = [
    *_leaf_kinds(),
    *(
        Kind(name, start, "Modules and optimizers of PyTorch", NAMES.get(name, "leaf"))
        for name, start in MODULES.items()
    ),
    *_wrapped_kinds(),
]
