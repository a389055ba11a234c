"""P26: loops as their authors' guides show them: counted from 1, with all that they have in hand."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest

from conftest import BACKEND

torch_only = pytest.mark.skipif(BACKEND != "torch", reason="a program of PyTorch")
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="a program of JAX")


@pytest.fixture
def run(tmp_path):
    """Runs a program with arguments in a process of its own, in the test's folder."""

    def call(source, *arguments, rc=0):
        (tmp_path / "main.py").write_text(source)
        done = subprocess.run(
            [sys.executable, "main.py", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": "always"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == rc, done.stdout + done.stderr
        return done

    return call


# The loop of PyTorch's quickstart, which counts from 1

TUTORIAL = """
import sys
import torch
from torch import nn
from peakhold import CallbackList, CSVLogger, EarlyStopping, ModelCheckpoint

torch.manual_seed(int(sys.argv[1]))
x = torch.randn(96, 2)
y = (x.square().sum(1) < 1).long()
train_set, test_set = (x[:64], y[:64]), (x[64:], y[64:])
model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scripted = [float(value) for value in sys.argv[2].split(",")]


def train_loop():
    model.train()
    for xs, ys in zip(train_set[0].split(16), train_set[1].split(16)):
        loss = loss_fn(model(xs), ys)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss


def test_loop(epoch):
    model.eval()
    with torch.no_grad():
        accuracy = (model(test_set[0]).argmax(1) == test_set[1]).float().mean()
    return accuracy * 0 + scripted[epoch - 1]


stopping = EarlyStopping("test/accuracy", patience=2, restore_best_weights=True, verbose=1)
best = ModelCheckpoint(
    "best-{epoch}.safetensors", monitor="test/accuracy", save_best_only=True, verbose=1
)
epochs = 14
callbacks = CallbackList(
    [stopping, best, CSVLogger("log.csv")], model=model, optimizer=optimizer, epochs=epochs
)
callbacks.on_train_begin()
for epoch in range(1, epochs + 1):
    callbacks.on_epoch_begin(epoch)
    loss = train_loop()
    callbacks.on_epoch_end(epoch, {"loss": loss, "test/accuracy": test_loop(epoch)})
    if callbacks.stop_training:
        break
callbacks.on_train_end()
print("best", stopping.best, stopping.best_epoch, best.best_path)
"""


@torch_only
def test_a_tutorial_that_counts_from_1_run_twice(run, tmp_path):
    first = run(TUTORIAL, "0", "0.5,0.9,0.8,0.7").stdout.splitlines()
    second = run(TUTORIAL, "1", "0.3,0.4,0.6,0.5,0.5").stdout.splitlines()

    assert first[-1] == "best 0.8999999761581421 2 best-2.safetensors"
    assert second[-1] == "best 0.6000000238418579 3 best-3.safetensors"
    assert "Epoch 5: early stopping" in second
    assert "Restoring model weights from the end of the best epoch: 3." in second
    told = [line for line in second if line.startswith("Peakhold: ")][-3:]
    assert told[0].startswith("Peakhold: training ended after epoch 5 of 14: test/accuracy: no imp")
    assert "best test/accuracy 0.60000 at epoch 3" in told[1]
    assert "5 epochs took" in told[2] and "ended 9 epochs early" in told[2]
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    kept = {path.name for path in tmp_path.glob("best-*.safetensors")}
    assert kept == {f"best-{n}.safetensors" for n in (1, 2, 3)}


# Two models, two optimizers

GAN = """
import sys
import torch
from torch import nn
from peakhold import BackupAndRestore, CallbackList, CSVLogger, EarlyStopping, ModelCheckpoint

torch.manual_seed(0)
real = torch.randn(64, 2) * 0.5 + 1
g = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
d = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
opt_g = torch.optim.Adam(g.parameters(), lr=2e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(d.parameters(), lr=1e-3, betas=(0.5, 0.999))
bce = nn.functional.binary_cross_entropy_with_logits
folder, dies = sys.argv[1], int(sys.argv[2])

callbacks = CallbackList(
    [
        BackupAndRestore(f"{folder}-backup"),
        CSVLogger(f"{folder}.csv", learning_rate=True),
        ModelCheckpoint(f"{folder}.safetensors", monitor="distance", mode="min"),
        EarlyStopping("distance", mode="min", patience=50),
    ],
    model={"g": g, "d": d}, optimizer={"g": opt_g, "d": opt_d}, epochs=5, verbose=0,
)
callbacks.on_train_begin()
for epoch in range(callbacks.initial_epoch, 5):
    callbacks.on_epoch_begin(epoch)
    for rows in torch.randperm(64).split(16):
        fake = g(torch.randn(len(rows), 4))
        loss_d = bce(d(real[rows]), torch.ones(len(rows), 1))
        loss_d = loss_d + bce(d(fake.detach()), torch.zeros(len(rows), 1))
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        loss_g = bce(d(fake), torch.ones(len(rows), 1))
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
    distance = (fake.mean(0) - real.mean(0)).norm()
    callbacks.on_epoch_end(epoch, {"g_loss": loss_g, "d_loss": loss_d, "distance": distance})
    if epoch == dies:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
callbacks.on_train_end()
"""


@torch_only
def test_a_gan_is_killed_and_goes_on_to_the_same_bytes(run, tmp_path):
    from safetensors.torch import load_file

    run(GAN, "whole", "-1")
    run(GAN, "killed", "2", rc=-signal.SIGKILL)
    run(GAN, "killed", "-1")

    assert (tmp_path / "killed.csv").read_text() == (tmp_path / "whole.csv").read_text()
    header = (tmp_path / "whole.csv").read_text().splitlines()[0].split(",")
    assert {"learning_rate_g", "learning_rate_d"} <= set(header)
    whole, killed = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert {name.partition(".")[0] for name in whole} == {"g", "d"}
    assert whole.keys() == killed.keys()
    assert all(whole[name].equal(killed[name]) for name in whole)
    assert not (tmp_path / "killed-backup").exists()


# All that a loop of today has in hand

EVERYTHING = """
import hashlib, json, os, signal, sys
import torch
from torch import nn
from peakhold import BackupAndRestore, CallbackList, CSVLogger, EarlyStopping

folder, dies, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
epochs = 7
torch.manual_seed(0)
x = torch.randn(64, 4)
model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.SequentialLR(
    optimizer,
    [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
    ],
    [2],
)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
ema = torch.optim.swa_utils.AveragedModel(
    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
)
callbacks = CallbackList(
    [
        BackupAndRestore(f"{folder}-backup"),
        CSVLogger(f"{folder}.csv", learning_rate=True),
        EarlyStopping("loss", patience=99, restore_best_weights=True),
    ],
    model=model, optimizer=optimizer, epochs=epochs, verbose=0, first_epoch=first,
    extra={"scheduler": scheduler, "scaler": scaler, "ema": ema},
)
callbacks.on_train_begin()
for epoch in range(callbacks.initial_epoch, epochs + first):
    callbacks.on_epoch_begin(epoch)
    model.train()
    for rows in torch.randperm(64).split(16):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.mse_loss(model(x[rows]), x[rows, :1])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        ema.update_parameters(model)
    scheduler.step()
    callbacks.on_epoch_end(epoch, {"loss": loss})
    if epoch == dies:
        os.kill(os.getpid(), signal.SIGKILL)
callbacks.on_train_end()


def digest(tree):
    if isinstance(tree, dict):
        return {str(key): digest(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [digest(value) for value in tree]
    if torch.is_tensor(tree):
        return hashlib.sha256(tree.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest() \\
            if tree.dim() else repr(tree)
    return repr(tree)


json.dump(
    {
        "model": digest(model.state_dict()), "optimizer": digest(optimizer.state_dict()),
        "scheduler": digest(scheduler.state_dict()), "scaler": digest(scaler.state_dict()),
        "ema": digest(ema.state_dict()),
    },
    open(f"{folder}.json", "w"),
)
"""


@torch_only
@pytest.mark.parametrize("first", [0, 1])
def test_scheduler_scaler_and_average_are_killed_and_go_on_to_the_same_bits(run, tmp_path, first):
    run(EVERYTHING, "whole", "-1", str(first))
    run(EVERYTHING, "killed", str(2 + first), str(first), rc=-signal.SIGKILL)
    run(EVERYTHING, "killed", str(4 + first), str(first), rc=-signal.SIGKILL)
    again = run(EVERYTHING, "killed", "-1", str(first))

    whole, killed = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("whole", "killed"))
    assert killed == whole
    assert len(whole["ema"]) > 8 and float(whole["scaler"]["scale"]) != 1024.0
    assert (tmp_path / "killed.csv").read_text() == (tmp_path / "whole.csv").read_text()
    rows = list(csv.DictReader((tmp_path / "whole.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(first, 7 + first))
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[:3] == pytest.approx([0.001, 0.0055, 0.01]), "those of the epoch, not of the next"
    assert "does not hold" not in again.stderr


# JAX, with the state of its optimizer in hand

JAX = """
import os, signal, sys
import jax, jax.numpy as jnp
import numpy as np
from peakhold import BackupAndRestore, CallbackList, CSVLogger, EarlyStopping, LoopHost

folder, dies = sys.argv[1], int(sys.argv[2])
x = jax.random.normal(jax.random.key(0), (64, 4))
y = x[:, 0] - x[:, 1]
state = {"params": {"w": jnp.zeros(4), "b": jnp.zeros(())}, "momentum": None}
state["momentum"] = jax.tree.map(jnp.zeros_like, state["params"])
key = jax.random.key(1)


@jax.jit
def step(state, key):
    def loss_of(params):
        noisy = x + 0.1 * jax.random.normal(key, x.shape)
        return jnp.mean((noisy @ params["w"] + params["b"] - y) ** 2)

    loss, gradients = jax.value_and_grad(loss_of)(state["params"])
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state["momentum"], gradients)
    params = jax.tree.map(lambda p, m: p - 0.05 * m, state["params"], momentum)
    return {"params": params, "momentum": momentum}, loss


def set_state(new):
    global state
    state = new


def set_key(new):
    global key
    key = new


callbacks = CallbackList(
    [BackupAndRestore(f"{folder}-backup"), CSVLogger(f"{folder}.csv"), EarlyStopping("loss", patience=9)],
    host=LoopHost(get_state=lambda: state, set_state=set_state),
    extra={"key": (lambda: key, set_key)}, epochs=6, verbose=0, first_epoch=1,
)
callbacks.on_train_begin()
for epoch in range(callbacks.initial_epoch, 7):
    callbacks.on_epoch_begin(epoch)
    key, now = jax.random.split(key)
    state, loss = step(state, now)
    callbacks.on_epoch_end(epoch, {"loss": loss})
    if epoch == dies:
        os.kill(os.getpid(), signal.SIGKILL)
callbacks.on_train_end()
np.savez(f"{folder}.npz", *[np.asarray(leaf) for leaf in jax.tree.leaves(state)])
"""


@jax_only
def test_a_functional_loop_and_its_key_are_killed_and_go_on(run, tmp_path):
    import numpy as np

    run(JAX, "whole", "-1")
    run(JAX, "killed", "3", rc=-signal.SIGKILL)
    run(JAX, "killed", "-1")

    whole, killed = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "killed"))
    assert len(whole.files) == 4
    assert all(np.array_equal(whole[name], killed[name]) for name in whole.files)
    assert (tmp_path / "killed.csv").read_text() == (tmp_path / "whole.csv").read_text()
