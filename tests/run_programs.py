"""Loops on `peakhold.Run` that can be killed, and what is left of them.

Each is a function of a folder, a hook that is called within batches, and further arguments of the
run; it returns the run and what was trained. `left` is all that an unbroken and a resumed run must
have alike.
"""

import csv
import hashlib
import os

import numpy as np

from event_reader import multiplexed, series, tags
from peakhold import Run
from peakhold.ledger import read_events

N_ROWS, N_EPOCHS, N_BATCHES = 96, 4, 12


def no_hook(place):
    """Nothing happens."""


def data():
    """Rows and labels."""
    rows = np.random.default_rng(0).normal(size=(N_ROWS, 8)).astype("float32")
    return rows, (rows[:, 0] > rows[:, 1]).astype("int64")


def torch_loop(folder, hook=no_hook, *, workers=0, n_epochs=N_EPOCHS, patience=8, **arguments):
    """AdamW, a scheduler, a scaler, dropout, a loader that shuffles."""
    import torch

    torch.manual_seed(0)
    rows, labels = (torch.from_numpy(one) for one in data())
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(rows, labels), batch_size=8, shuffle=True,
        num_workers=workers,
    )  # fmt: skip
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2),
        torch.nn.Linear(16, 2),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    loss_of = torch.nn.CrossEntropyLoss()
    run = Run(
        folder, model=model, optimizer=optimizer, extra={"scheduler": scheduler, "scaler": scaler},
        **{"monitor": "val_loss", "patience": patience, "verbose": 0, **arguments},
    )  # fmt: skip
    with run:
        for _ in run.epochs(n_epochs):
            model.train()
            for x, y in run.batches(loader):
                loss = loss_of(model(x), y)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                hook("batch")
                scaler.step(optimizer)
                scaler.update()
                run.log(loss=loss)
            scheduler.step()
            model.eval()
            with torch.no_grad():
                for x, y in run.batches(
                    [(rows[:40], labels[:40]), (rows[40:], labels[40:])], "val"
                ):
                    hook("evaluation")
                    scores = model(x)
                    run.log(
                        loss=loss_of(scores, y), accuracy=(scores.argmax(1) == y).float().mean()
                    )
    return run, [model.state_dict(), optimizer.state_dict(), scheduler.state_dict()]


def torch_workers(folder, hook=no_hook, **arguments):
    """Two processes load the batches."""
    return torch_loop(folder, hook, workers=2, **arguments)


def torch_steps(folder, hook=no_hook, *, n_steps=40, **arguments):
    """No epochs: checks, and data that are gone through again and again."""
    import torch

    torch.manual_seed(0)
    rows, labels = (torch.from_numpy(one) for one in data())
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(rows, labels), batch_size=8, shuffle=True
    )
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss_of = torch.nn.CrossEntropyLoss()
    run = Run(
        folder, model=model, optimizer=optimizer,
        **{"monitor": "val_loss", "patience": 8, "verbose": 0, **arguments},
    )  # fmt: skip
    with run:
        for x, y in run.steps(loader, n_steps):
            model.train()
            loss = loss_of(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            hook("batch")
            optimizer.step()
            run.log(loss=loss)
            if run.every(steps=9):
                model.eval()
                with torch.no_grad():
                    hook("evaluation")
                    run.check(val_loss=loss_of(model(rows), labels))
    return run, [model.state_dict(), optimizer.state_dict()]


def jax_loop(folder, hook=no_hook, *, n_epochs=N_EPOCHS, patience=8, **arguments):
    """A state that is passed on: parameters, their momentum, a typed key."""
    import jax
    import jax.numpy as jnp

    rows, labels = data()
    random = np.random.default_rng(1)
    state = {
        "params": {
            "w": jnp.asarray(random.normal(size=(8, 2)).astype("float32")), "b": jnp.zeros(2)
        },
        "momentum": {"w": jnp.zeros((8, 2)), "b": jnp.zeros(2)},
        "key": jax.random.key(3),
        "step": jnp.zeros((), "int32"),
    }  # fmt: skip

    def loss_of(params, x, y, key=None):
        if key is not None:
            x = x * jax.random.bernoulli(key, 0.8, x.shape)
        scores = jax.nn.log_softmax(x @ params["w"] + params["b"])
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    @jax.jit
    def step(state, x, y):
        key, mine = jax.random.split(state["key"])
        loss, grads = jax.value_and_grad(loss_of)(state["params"], x, y, mine)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state["momentum"], grads)
        params = jax.tree.map(lambda p, m: p - 0.1 * m, state["params"], momentum)
        return {
            "params": params, "momentum": momentum, "key": key, "step": state["step"] + 1
        }, loss  # fmt: skip

    batches = [(rows[i : i + 8], labels[i : i + 8]) for i in range(0, N_ROWS, 8)]
    run = Run(
        folder, state=state,
        **{"monitor": "val_loss", "patience": patience, "verbose": 0, **arguments},
    )  # fmt: skip
    with run:
        for _ in run.epochs(n_epochs):
            for x, y in run.batches(batches):
                run.state, loss = step(run.state, x, y)
                hook("batch")
                run.log(loss=loss)
            hook("evaluation")
            run.log(val_loss=loss_of(run.state["params"], rows, labels))
    state = dict(run.state)
    state["key"] = jax.random.key_data(state["key"])
    return run, [state]


LOOPS = {
    "torch": torch_loop,
    "torch workers": torch_workers,
    "torch steps": torch_steps,
    "jax": jax_loop,
}


def left(folder, run, trained):
    """All that an unbroken and a resumed run must have alike."""
    return {**told(folder, run, trained), "history": run.history, **written(folder)}


def told(folder, run, trained):
    """What the run itself tells of it."""
    return {
        "trained": digest(trained),
        "best": str(run.best).replace(str(folder), "…"),
        "stopped_because": run.stopped_because,
    }


def written(folder):
    """What is read from its folder."""
    return {**logged(folder), "board": board_of(os.path.join(folder, "tensorboard"))}


def logged(folder):
    """What is read from its logs."""
    return {
        "csv": rows_of(os.path.join(folder, "metrics.csv")),
        "ledger": [*moments_of(os.path.join(folder, "events.jsonl"))],
    }


def board_of(folder):
    """Tags, steps and values that TensorBoard shows, but for wall times and rates."""
    reader = multiplexed(folder)
    return {
        f"{run}/{tag}": series(reader.GetAccumulator(run), tag)
        for run in sorted(reader.Runs())
        for tag in sorted(tags(reader.GetAccumulator(run)))
        if "second" not in tag
    }


def moments_of(path):
    """What the run's record says to readers, but for times and saves."""
    for event in read_events(path):
        if event["kind"] == "moment":
            decided = {
                name: [one for one in each if one["decision"] not in {"Save", "Skip"}]
                for name, each in event.get("decisions", {}).items()
            }
            kept = ("event", "epoch", "batch", "step", "metrics", "rates", "validated", "defect")
            yield {name: event.get(name) for name in kept}, {k: v for k, v in decided.items() if v}


def rows_of(path):
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.reader(file))


def digest(tree):
    """A short text that differs where any bit of a tree does."""
    return hashlib.sha256("\n".join(lines_of(tree)).encode()).hexdigest()[:16]


def lines_of(tree, path=""):
    """A line for each leaf."""
    if isinstance(tree, dict):
        for key in sorted(tree, key=str):
            yield from lines_of(tree[key], f"{path}/{key}")
    elif isinstance(tree, (list, tuple)):
        for index, one in enumerate(tree):
            yield from lines_of(one, f"{path}/{index}")
    elif hasattr(tree, "shape"):
        array = np.asarray(tree)
        yield f"{path} {array.dtype} {array.shape} {array.tobytes().hex()}"
    else:
        yield f"{path} {tree!r}"


def tape_loop(folder, hook=no_hook, *, n_epochs=N_EPOCHS, patience=8, **arguments):
    """A Keras model in a loop with a `GradientTape`: dropout, a schedule of rates, `tf.data`."""
    import tensorflow as tf

    import keras

    keras.utils.set_random_seed(0)
    rows, labels = data()
    model = keras.Sequential(
        [
            keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2, seed=1), keras.layers.Dense(2),
        ]
    )  # fmt: skip
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 48))
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    batches = tf.data.Dataset.from_tensor_slices((rows, labels)).shuffle(96, seed=5).batch(8)
    run = Run(
        folder, model=model, optimizer=optimizer,
        **{"monitor": "val_loss", "patience": patience, "verbose": 0, **arguments},
    )  # fmt: skip
    with run:
        for _ in run.epochs(n_epochs):
            for x, y in run.batches(batches):
                with tf.GradientTape() as tape:
                    loss = loss_of(y, model(x, training=True))
                hook("batch")
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
                run.log(loss=loss)
            for x, y in run.batches([(rows, labels)], "val"):
                hook("evaluation")
                run.log(loss=loss_of(y, model(x)))
    return run, [model.get_weights(), [v.numpy() for v in optimizer.variables]]


LOOPS["tape"] = tape_loop
