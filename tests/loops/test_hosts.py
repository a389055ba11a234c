"""Our host of loops under the kit that we ship, over all that it says it can hold."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState
from safetensors.torch import load_file

import peakhold
from kinds_of_state import LEAVES
from peakhold import LoopHost
from peakhold.host.onto_live import taken_apart
from peakhold.testing import HostTests

# PyTorch


class Loop:
    """A module with dropout, a buffer and whatever wraps it, and what trains it."""

    def __init__(self, wrap=lambda model: model):
        self.model = wrap(
            torch.nn.Sequential(
                torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.3),
                torch.nn.Linear(3, 1),
            )
        )  # fmt: skip
        self.make()

    def make(self):
        groups = [{"params": [one], "lr": 0.01 * (1 + i)} for i, one in enumerate(
            [p for p in self.model.parameters() if p.ndim > 1]
        )]  # fmt: skip
        rest = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW([*groups, {"params": rest, "lr": 0.1}])
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        self.generator = torch.Generator().manual_seed(3)

    def step(self):
        x = torch.randn(6, 4, generator=self.generator) + torch.rand(())
        loss = self.model(x).square().mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.average.update_parameters(self.model)


class TestModule(HostTests):
    """Parameter groups, a scheduler, a scaler, an average and a generator beside it."""

    def start(self):
        return Loop()

    def host(self, loop):
        return LoopHost(loop.model, optimizer=loop.optimizer)

    def step(self, loop):
        loop.step()

    def live(self, loop):
        return {"weights": loop.model.state_dict(), "optimizer": loop.optimizer.state_dict()}

    def rates(self, loop):
        return {str(i): group["lr"] for i, group in enumerate(loop.optimizer.param_groups)}

    def beside(self, loop):
        generator = loop.generator
        return {
            "scheduler": loop.scheduler, "scaler": loop.scaler, "average": loop.average,
            "generator": (generator.get_state, generator.set_state),
        }  # fmt: skip

    def load(self, loop, path):
        peakhold.give_back(load_file(path), loop.model)

    def unholdable(self):
        loop = Loop()
        loop.model.register_buffer("nothing", torch.zeros(3, device="meta"))
        yield loop, "nothing"


class TestCompiled(TestModule):
    """The file has the names of the module that was compiled."""

    def start(self):
        return Loop(lambda model: torch.compile(model, backend="eager"))

    def unholdable(self):
        return ()


class Several(Loop):
    """As a GAN: two modules, two optimizers, one of which takes 16 bits."""

    def make(self):
        self.other = torch.nn.Linear(4, 3, dtype=torch.bfloat16)
        self.models = {"g": self.model, "d": self.other}
        self.optimizers = {
            "g": torch.optim.Adam(self.model.parameters(), 0.02, capturable=False),
            "d": torch.optim.SGD(self.other.parameters(), 0.25, momentum=0.5),
        }

    def step(self):
        x = torch.rand(6, 4)
        loss = self.model(x).square().mean() + self.other(x.bfloat16()).square().float().mean()
        for one in self.optimizers.values():
            one.zero_grad()
        loss.backward()
        for one in self.optimizers.values():
            one.step()


class TestSeveral(HostTests):
    def start(self):
        return Several()

    def host(self, loop):
        return LoopHost(loop.models, optimizer=loop.optimizers)

    def step(self, loop):
        loop.step()

    def live(self, loop):
        return {
            "weights": {name: one.state_dict() for name, one in loop.models.items()},
            "optimizer": {name: one.state_dict() for name, one in loop.optimizers.items()},
        }

    def rates(self, loop):
        return {name: one.param_groups[0]["lr"] for name, one in loop.optimizers.items()}

    def load(self, loop, path):
        named = load_file(path)
        for name, model in loop.models.items():
            own = {key: t for key, t in named.items() if key.startswith(f"{name}.")}
            model.load_state_dict({key.removeprefix(f"{name}."): t for key, t in own.items()})


# JAX


class Passed:
    """A loop that passes a state on."""

    def __init__(self, state, step):
        self.state, self.next = state, step
        self.rate = 0.5

    def set(self, state):
        self.state = state


class PassedOn(HostTests):
    """What the loop passes on is one part; the kit's own `overwrite` cannot write to JAX's."""

    def host(self, loop):
        return LoopHost(
            get_state=lambda: loop.state, set_state=loop.set,
            get_learning_rate=lambda: loop.rate,
            set_learning_rate=lambda rate: setattr(loop, "rate", rate),
        )  # fmt: skip

    def step(self, loop):
        loop.state = loop.next(loop.state)

    def live(self, loop):
        return {"weights": loop.state}

    def rates(self, loop):
        return {"": loop.rate}

    def load(self, loop, path):
        plain = taken_apart(loop.state)
        loop.state = peakhold.like_live(filled(plain, load_file(path)), loop.state)


def filled(tree, named, path=""):
    """A plain tree with the arrays of a file, by their dotted names."""
    if isinstance(tree, dict):
        return {key: filled(one, named, f"{path}.{key}") for key, one in tree.items()}
    if isinstance(tree, (list, tuple)):
        new = [filled(one, named, f"{path}.{i}") for i, one in enumerate(tree)]
        return type(tree)(*new) if hasattr(tree, "_fields") else type(tree)(new)
    return named[path[1:]] if hasattr(tree, "dtype") or isinstance(tree, (int, float)) else tree


class Kinds(PassedOn):
    """A leaf of each dtype and kind that a file can hold, and another value in each step."""

    kinds = ()

    def start(self):
        def state(n):
            return {"n": n, **{name: LEAVES[name](n) for name in self.kinds}}

        return Passed(state(1), lambda old: state(int(old["n"]) + 1))


class TestKindsOfNumPy(Kinds):
    kinds = (
        "numpy", "numpy 0-d", "numpy empty", "numpy scalar", "numpy bfloat16", "numpy float8",
        "number", "whole number",
    )  # fmt: skip


class TestKindsOfPyTorch(Kinds):
    kinds = (
        "torch", "torch 0-d", "torch empty", "torch bfloat16", "torch bfloat16 0-d",
        "torch float8", "torch float16", "torch complex", "torch uint16", "torch bool",
        "torch parameter", "torch channels_last", "torch transposed",
    )  # fmt: skip


class TestKindsOfJax(Kinds):
    kinds = (
        "jax", "jax 0-d", "jax weak", "jax weak 0-d", "jax bfloat16", "jax float8", "jax key",
        "jax keys", "jax raw key", "jax sharded", "jax committed",
    )  # fmt: skip

    def unholdable(self):
        state = {"w": jnp.ones(2), "open": object()}
        yield Passed(state, lambda old: old), "open"


class Net(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.Dense(1)(flax.linen.relu(flax.linen.Dense(2)(x)))


NET, ROWS = Net(), np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)


@jax.jit
def train_state_step(state):
    loss = lambda params: jnp.square(NET.apply({"params": params}, ROWS)).mean()  # noqa: E731
    return state.apply_gradients(grads=jax.grad(loss)(state.params))


RULE = optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 20)))


class TestTrainState(PassedOn):
    """Of Flax, over a `FrozenDict`, with functions among its fields."""

    def start(self):
        params = freeze(NET.init(jax.random.key(np.random.randint(99)), ROWS)["params"])
        state = TrainState.create(apply_fn=NET.apply, params=params, tx=RULE)
        return Passed(state, train_state_step)


@jax.jit
def optax_step(state):
    key, mine = jax.random.split(state["key"])
    x = ROWS * jax.random.bernoulli(mine, 0.8, ROWS.shape)
    gradients = jax.grad(lambda params: jnp.square(x @ params["w"]).mean())(state["params"])
    updates, opt_state = RULE.update(gradients, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state, "key": key}


class TestOptax(PassedOn):
    """Parameters, Optax's named tuples and a typed key."""

    def start(self):
        params = {"w": jnp.asarray(np.random.rand(4, 1), jnp.float32)}
        key = jax.random.key(np.random.randint(99))
        return Passed({"params": params, "opt_state": RULE.init(params), "key": key}, optax_step)


class Nnx:
    def __init__(self):
        rngs = nnx.Rngs(np.random.randint(99))
        self.module = nnx.Sequential(
            nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs),
            nnx.Dropout(0.3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs),
        )  # fmt: skip
        self.optimizer = nnx.Optimizer(self.module, RULE, wrt=nnx.Param)


@nnx.jit
def nnx_step(module, optimizer):
    gradients = nnx.grad(lambda module: jnp.square(module(ROWS)).mean())(module)
    optimizer.update(module, gradients)


def variables(one):
    """By path, the kind of each variable and what it holds."""
    flat = nnx.to_flat_state(nnx.state(one))
    return {path: [type(variable).__name__, variable.get_value()] for path, variable in flat}


class TestNnx(HostTests):
    """Modules of Flax that hold their arrays, streams of random numbers included."""

    def start(self):
        return Nnx()

    def host(self, loop):
        return LoopHost(loop.module, optimizer=loop.optimizer)

    def step(self, loop):
        nnx_step(loop.module, loop.optimizer)

    def live(self, loop):
        return {"weights": variables(loop.module), "optimizer": variables(loop.optimizer)}

    def load(self, loop, path):
        peakhold.give_back(load_file(path), loop.module)
