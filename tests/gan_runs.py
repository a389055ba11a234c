"""A GAN that `fit` trains by a step of its own: two optimizers, on each backend as people write it.

`process` is one process of such a run; it may kill itself as an epoch begins. What `fit` was given
is the same line in each.
"""

import functools
import json
import os
import pathlib
import signal

if os.environ.get("KERAS_BACKEND") == "torch":
    import torch

    torch.set_num_threads(1)

import numpy as np

import keras
import peakhold.keras as pk
from resume_runs import BACKEND, digest
from zygote import Zygote, environment_of

HELD = ("beside", "within")
"""Where the second optimizer is: an attribute of the model, or in one that `compile` gets and that
hands its variables on (a step that JAX compiles changes nothing else)."""
EPOCHS, BATCH = 4, 8


class Pair(keras.optimizers.Optimizer):
    """Two optimizers, as one that `compile` takes; the model's step asks each for itself."""

    def __init__(self, one, other):
        super().__init__(0.0)
        self.one, self.other = one, other

    @property
    def variables(self):
        return [*self.one.variables, *self.other.variables]


class Gan(keras.Model):
    """A critic and a generator, each with its optimizer; noise from a generator of its own."""

    def __init__(self, held):
        super().__init__()
        layers = keras.layers
        self.critic = keras.Sequential(
            [keras.Input((2,)), layers.Dense(8, activation="relu"), layers.Dense(1)]
        )
        self.generator = keras.Sequential(
            [keras.Input((3,)), layers.Dense(8, activation="relu"), layers.Dense(2)]
        )
        self.held, self.noise = held, keras.random.SeedGenerator(7)
        self.judge = keras.losses.BinaryCrossentropy(from_logits=True)

    def compile(self, critics, generators):
        within = self.held == "within"
        super().compile(
            optimizer=Pair(critics, generators) if within else critics,
            run_eagerly=BACKEND == "jax" and not within,
        )
        self.critics, self.generators = critics, generators
        if BACKEND == "jax":  # whose step makes no variables
            critics.build(self.critic.trainable_variables)
            generators.build(self.generator.trainable_variables)
            self.optimizer.built = True

    def call(self, x):
        return self.critic(x)

    def made(self):
        return self.generator(keras.random.normal((BATCH, 3), seed=self.noise))

    def critics_loss(self, real):
        true, false = self.critic(real), self.critic(self.made())
        ones, zeros = keras.ops.ones_like(true), keras.ops.zeros_like(false)
        return self.judge(ones, true) + self.judge(zeros, false)

    def generators_loss(self, real):
        judged = self.critic(self.made())
        return self.judge(keras.ops.ones_like(judged), judged)

    def turns(self):
        """Who learns, by which optimizer, from what."""
        return (
            (self.critic, self.critics, self.critics_loss),
            (self.generator, self.generators, self.generators_loss),
        )

    if BACKEND == "torch":

        def train_step(self, real):
            losses = []
            for net, optimizer, loss_of in self.turns():
                self.zero_grad()
                losses.append(loss_of(real))
                losses[-1].backward()
                with torch.no_grad():
                    gradients = [variable.value.grad for variable in net.trainable_variables]
                    optimizer.apply(gradients, net.trainable_variables)
            return {"critic": losses[0].detach(), "generator": losses[1].detach()}

    elif BACKEND == "tensorflow":

        def train_step(self, real):
            import tensorflow

            losses = []
            for net, optimizer, loss_of in self.turns():
                with tensorflow.GradientTape() as tape:
                    losses.append(loss_of(real))
                variables = net.trainable_variables
                optimizer.apply(tape.gradient(losses[-1], variables), variables)
            return {"critic": losses[0], "generator": losses[1]}

    else:

        def train_step(self, state, real):
            import jax

            trained, fixed, moments, metrics = state
            values = {
                id(variable): value
                for variables, now in (
                    (self.trainable_variables, trained),
                    (self.non_trainable_variables, fixed),
                    (self.optimizer.variables, moments),
                )
                for variable, value in zip(variables, now, strict=True)
            }
            losses = []
            for net, optimizer, loss_of in self.turns():
                own = net.trainable_variables

                def loss_and_seeds(own_values, own=own, loss_of=loss_of):
                    models = [*self.trainable_variables, *self.non_trainable_variables]
                    now = {**values, **dict(zip(map(id, own), own_values, strict=True))}
                    mapping = [(variable, now[id(variable)]) for variable in models]
                    with keras.StatelessScope(state_mapping=mapping) as scope:
                        loss = loss_of(real)
                    seeds = self.non_trainable_variables
                    return loss, [scope.get_current_value(one) for one in seeds]

                before = [values[id(variable)] for variable in own]
                found = jax.value_and_grad(loss_and_seeds, has_aux=True)(before)
                (loss, seeds), gradients = found
                threaded = [
                    values[id(v)] if id(v) in values else v.value for v in optimizer.variables
                ]
                after, threaded = optimizer.stateless_apply(threaded, gradients, before)
                for variable, value in zip(optimizer.variables, threaded, strict=True):
                    if id(variable) in values:
                        values[id(variable)] = value
                    else:  # the step is not compiled
                        variable.assign(value)
                values.update(zip(map(id, own), after, strict=True))
                values.update(zip(map(id, self.non_trainable_variables), seeds, strict=True))
                losses.append(loss)
            logs = {"critic": losses[0], "generator": losses[1]}
            trained, fixed, moments = (
                [values[id(variable)] for variable in variables]
                for variables in (
                    self.trainable_variables,
                    self.non_trainable_variables,
                    self.optimizer.variables,
                )
            )
            return logs, (trained, fixed, moments, metrics)


class Kill(keras.callbacks.Callback):
    """In the first batch of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, held, dies):
    folder = pathlib.Path(folder)
    keras.utils.set_random_seed(1)
    model = Gan(held)
    model.compile(keras.optimizers.Adam(0.02), keras.optimizers.RMSprop(0.01))
    x = np.random.default_rng(0).normal(1, 0.3, size=(16, 2)).astype("float32")
    backup = pk.BackupAndRestore(folder / "backup")
    callbacks = [backup, pk.CSVLogger(folder / "log.csv", append=True), Kill(dies)]
    history = model.fit(x, epochs=EPOCHS, batch_size=BATCH, verbose=0, callbacks=callbacks)
    optimizers = (model.critics, model.generators)
    arrays = [keras.ops.convert_to_numpy(v) for one in optimizers for v in one.variables]
    result = {
        "weights": digest(model.get_weights()),
        "noise": keras.ops.convert_to_numpy(model.noise.state).tolist(),
        "optimizers": digest(arrays),
        "updates": [int(keras.ops.convert_to_numpy(one.iterations)) for one in optimizers],
        "history": {name: [float(value) for value in history.history[name]]
                    for name in ("critic", "generator")},
        "log": (folder / "log.csv").read_text(),
        "began at": backup.initial_epoch,
    }  # fmt: skip
    (folder / "outcome.json").write_text(json.dumps(result))


@functools.cache
def _zygote():
    return Zygote("gan_runs", environment_of(BACKEND))


def process(folder, held, dies=-1):
    """One process of the run.

    Returns:
        What it left; None if it was killed.
    """
    folder.mkdir(exist_ok=True)
    status = _zygote().run(str(folder), held, dies)
    if status == -signal.SIGKILL:
        return None
    assert status == 0, "its traceback is above"
    return json.loads((folder / "outcome.json").read_text())
