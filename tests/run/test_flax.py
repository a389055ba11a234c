"""Runs of Flax: modules that hold their arrays (NNX), and states that the loop passes on."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState
from safetensors.torch import load_file

from kinds_of_state import same
from peakhold import BackupAndRestore, CallbackList, Every, Run, give_back
from peakhold.errors import InvalidArgumentError, SaveWarning

ROWS = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
BATCHES = [(ROWS[i : i + 4], (ROWS[i : i + 4, 0] > 0).astype("int32")) for i in range(0, 16, 4)]


class PowerCut(Exception):
    pass


def train(folder, step, *, cut=None, n=3, **arguments):
    """Epochs of `step(run, batch)`; the power fails in a batch."""
    arguments = {"monitor": "loss", "patience": 9, "save_every": Every(batches=1), **arguments}
    done = 0
    with Run(folder, verbose=0, **arguments) as run:
        for _ in run.epochs(n):
            for batch in run.batches(BATCHES):
                run.log(loss=step(run, batch))
                done += 1
                if done == cut:
                    raise PowerCut
    return run


# A state that is passed on


class Net(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.Dense(2)(flax.linen.relu(flax.linen.Dense(3)(x)))


NET, RULE = Net(), optax.adamw(optax.cosine_decay_schedule(1e-2, 40))


def train_state(seed, wrap):
    params = wrap(NET.init(jax.random.key(seed), ROWS)["params"])
    return TrainState.create(apply_fn=NET.apply, params=params, tx=RULE)


@jax.jit
def passed_on(state, x, y):
    def loss_of(params):
        scores = state.apply_fn({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=gradients), loss


def pass_on(run, batch):
    run.state, loss = passed_on(run.state, *batch)
    return loss


@pytest.mark.parametrize("wrap", [dict, freeze], ids=["dict", "FrozenDict"])
def test_a_train_state_comes_back_with_its_types_and_bits(tmp_path, wrap):
    whole = train(tmp_path / "whole", pass_on, state=train_state(0, wrap))
    with pytest.raises(PowerCut):
        train(tmp_path / "cut", pass_on, state=train_state(0, wrap), cut=6)
    resumed = train(tmp_path / "cut", pass_on, state=train_state(1, wrap))

    assert type(resumed.state) is TrainState
    assert type(resumed.state.params) is type(wrap({}))
    assert jax.tree.structure(resumed.state) == jax.tree.structure(whole.state)
    same(jax.tree.leaves(resumed.state), jax.tree.leaves(whole.state))
    assert int(resumed.state.step) == 12


# Modules that hold their arrays


class Module(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.List([nnx.Linear(3, 2, rngs=rngs)])

    def __call__(self, x):
        return self.last[0](self.dropout(nnx.relu(self.norm(self.hidden(x)))))


@nnx.jit
def in_place(module, optimizer, x, y):
    def loss_of(module):
        return optax.softmax_cross_entropy_with_integer_labels(module(x), y).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(module)
    optimizer.update(module, gradients)
    return loss


class Held:
    """A module, its optimizer, and a metric beside them."""

    def __init__(self, seed):
        self.module = Module(seed)
        self.optimizer = nnx.Optimizer(self.module, optax.adam(1e-2), wrt=nnx.Param)
        self.extra = {"seen": nnx.metrics.Average()}

    def train(self, folder, **arguments):
        def step(run, batch):
            loss = in_place(self.module, self.optimizer, *batch)
            self.extra["seen"].update(values=loss)
            return loss

        self.run = train(
            folder, step, model=self.module, optimizer=self.optimizer, extra=self.extra,
            **arguments,
        )  # fmt: skip
        return self

    def state(self):
        return jax.tree.leaves(nnx.state((self.module, self.optimizer, self.extra["seen"])))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Held(0).train(tmp_path_factory.mktemp("whole") / "run")


def test_a_module_its_optimizer_and_a_metric_come_back(tmp_path, whole):
    with pytest.raises(PowerCut):
        Held(0).train(tmp_path / "cut", cut=6)
    resumed = Held(1).train(tmp_path / "cut")

    same(resumed.state(), whole.state())
    assert resumed.run.best.value == whole.run.best.value
    assert not hasattr(resumed.module, "stop_training")  # it would be compiled for


def test_its_file_has_plain_names_and_is_given_back(whole):
    named = load_file(whole.run.best.path)
    assert {"hidden.kernel", "norm.mean", "dropout.rngs.count", "last.0.bias"} <= named.keys()
    fresh = Module(5)
    give_back(named, fresh)
    same(jax.tree.leaves(nnx.state(fresh)), jax.tree.leaves(nnx.state(whole.module)))


def test_variables_of_two_models_stay_those_that_others_share(tmp_path):
    """What comes back goes into the variables that are there."""
    models = {"a": nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "b": nnx.Linear(2, 2, rngs=nnx.Rngs(1))}
    kernel = models["a"].kernel
    kernel.set_value(jnp.full((2, 2), 7.0))

    def step(run, batch):
        kernel.set_value(kernel.get_value() + 1)
        return 1.0

    with pytest.raises(PowerCut):
        train(
            tmp_path / "run", step, model=models, cut=2, callbacks=[], monitor=None, patience=None
        )
    kernel.set_value(jnp.zeros((2, 2)))
    seen = []
    train(
        tmp_path / "run", lambda run, batch: seen.append(np.asarray(kernel.get_value())) or 1.0,
        model=models, callbacks=[], monitor=None, patience=None,
    )  # fmt: skip
    np.testing.assert_array_equal(seen[0], np.full((2, 2), 8.0))  # as it was after one batch


def test_variables_of_one_name_are_refused(tmp_path):
    module = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    module.more = nnx.Dict({"a.b": nnx.Param(jnp.ones(1)), "a": nnx.Dict(b=nnx.Param(jnp.ones(1)))})
    with pytest.raises(InvalidArgumentError, match="different dotted names"):
        train(tmp_path / "run", lambda run, batch: 1.0, model=module)


# What cannot be reached


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"model": {"w": jnp.zeros(2)}, "optimizer": RULE}, "Run\\(..., state=state\\)"),
        ({"model": NET}, "Run\\(..., state=state\\)"),
        ({"state": {"w": jnp.zeros(2)}, "optimizer": RULE}, "'opt_state': opt_state"),
        ({"state": Held(0).module}, "pass model=model, optimizer=optimizer"),
        ({"state": (Held(0).module, 1)}, "pass model=model, optimizer=optimizer"),
    ],
)
def test_what_nobody_can_get_and_set_is_refused(tmp_path, given, hint):
    with pytest.raises(InvalidArgumentError, match=hint):
        Run(tmp_path / "run", **given)


def test_an_optimizer_that_was_forgotten_is_said_once(tmp_path):
    module = Module(0)
    optimizer = nnx.Optimizer(module, optax.adam(1e-2), wrt=nnx.Param)
    with pytest.warns(SaveWarning, match="does not hold optimizer \\(Optimizer\\)") as said:
        with Run(tmp_path / "run", model=module, verbose=0) as run:
            for _ in run.epochs(1):
                run.log(loss=1.0)
    assert len([one for one in said if one.category is SaveWarning]) == 1
    assert optimizer.step.get_value() == 0


def test_a_list_says_that_it_cannot_reach_a_model(tmp_path):
    callbacks = CallbackList(BackupAndRestore(tmp_path), NET, verbose=0)
    with pytest.warns(SaveWarning, match="does not hold the model \\(Net\\)"):
        callbacks.on_train_begin()
