"""Programs of workers that hold a model in pieces (FSDP2); run by `forked.py`."""

import os
import signal
import threading

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from peakhold import (
    BackupAndRestore,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    Every,
    ModelCheckpoint,
    Run,
)

VAL_LOSS = [1.0, 0.5, 0.4, 0.9, 0.8, 0.7]


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def state_of(model, optimizer):
    """All of it, as numbers: weights, buffers, moments."""
    weights = {name: whole(one).tolist() for name, one in model.state_dict().items()}
    moments = [
        {name: whole(one).tolist() for name, one in each.items()}
        for each in optimizer.state.values()
    ]
    return weights, moments


def join(rank, ports):
    size = len(ports)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{ports[0]}", rank=rank, world_size=size)


CHANGES = ("write", "fsync", "rename", "mkdir", "unlink", "rmdir", "link")
"""Calls that change the disk."""


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def count_calls(fatal):
    """Names of the calls that change the disk, as they are made; the fatal one is made no more."""
    made, lock = [], threading.Lock()

    def counted(name, call):
        def wrapped(*args, **kwargs):
            with lock:
                made.append(name)
                if len(made) == fatal:
                    die()
            return call(*args, **kwargs)

        return wrapped

    for name in CHANGES:
        setattr(os, name, counted(name, getattr(os, name)))
    return made


def killed_in_a_save(rank, ports, folder, victim, epoch, when):
    """Six epochs, in which a rank dies in the save of one: at its `when`-th call, or so many seconds
    after that epoch."""
    begins = when if rank == victim else None
    return train(rank, ports, folder, in_save=(epoch, begins))


def in_pieces():
    """A model that lies on all workers, and its optimizer."""
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 7), torch.nn.BatchNorm1d(7), torch.nn.Dropout(0.2), torch.nn.Linear(7, 5)
    )
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer)
    fully_shard(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    return model, optimizer


def train(rank, ports, folder, killed=None, disk=None, in_save=None):
    """Six epochs; `killed`: the epoch in which the last rank kills itself."""
    join(rank, ports)
    os.chdir(folder)  # states are filed by path: a copy of the folder is gone on from as it is
    torch.manual_seed(rank)
    model, optimizer = in_pieces()
    saver = ModelCheckpoint("best.safetensors", monitor="val_loss", save_best_only=True)
    stopper = EarlyStopping("val_loss", patience=3, restore_best_weights=True)
    run = CallbackList(
        [stopper, saver, CSVLogger("log.csv", append=True),
         BackupAndRestore("backup")],
        model=model, optimizer=optimizer, epochs=6,
    )  # fmt: skip
    run.on_train_begin()
    began, states = run.initial_epoch, {}
    for epoch in range(began, 6):
        run.on_epoch_begin(epoch)
        states[f"before {epoch}"] = state_of(model, optimizer)
        if disk is not None and epoch == 1:
            disk_fails(rank)
        for batch in range(3):
            if killed == epoch and batch == 1 and rank == len(ports) - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            x = torch.randn(16, 8)
            loss = torch.nn.functional.mse_loss(model(x), x[:, :5])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        states[f"after {epoch}"] = state_of(model, optimizer)
        if in_save is not None and epoch == in_save[0]:
            made = ends_in_save(in_save[1])
        if in_save is not None and epoch == in_save[0] + 1:
            states["calls"] = list(made)
        run.on_epoch_end(epoch, {"val_loss": VAL_LOSS[epoch] + rank / 100})
        if run.stop_training:
            break
    run.on_train_end()
    states["end"] = state_of(model, optimizer)
    best = [stopper.best, stopper.best_epoch, saver.best, saver.best_path, saver.best_epoch]
    dist.barrier()
    dist.destroy_process_group()
    return [began, states, best]


def ends_in_save(when):
    """The save that comes now is this process's last, if `when` is given."""
    if isinstance(when, float):
        threading.Timer(when, die).start()
    return count_calls(when if isinstance(when, int) else None)


def disk_fails(rank):
    """The next file that rank 0 opens to write the whole model breaks off in its middle."""
    if rank:
        return
    from peakhold.host import loop

    real, written = loop.write_whole, []

    class Full:
        def write(self, data):
            written.append(len(data))
            if len(written) == 3:
                raise OSError(28, "No space left on device")

    def write_whole(file, *args):
        loop.write_whole = real
        real(Full(), *args)

    loop.write_whole = write_whole


def given_to_a_store(rank, ports, folder):
    """What stands in a store for a tensor of which this process has a part, and for one it has whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from peakhold.snapshots.arrays import NotStorableError, source_of
    from peakhold.store import Store

    join(rank, ports)
    mesh, said = init_device_mesh("cpu", (len(ports),)), {}
    for name, placement in {"part": Shard(0), "copy": Replicate()}.items():
        tensor = distribute_tensor(torch.arange(6.0).reshape(3, 2), mesh, [placement])
        with Store(f"{folder}/{name}-{rank}") as store:
            store.save(1, {"model": {"w": tensor}}).result()
            found = store.load(1)["model"]["w"]
        said[name] = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in found.items()}
    try:
        source_of(tensor)
    except NotStorableError as error:
        said["as an array"] = str(error)
    dist.barrier()
    dist.destroy_process_group()
    return said


class PowerCut(Exception):
    """Ends the process's part in a run, on all workers at one place."""


def in_runs(rank, ports, folder):
    """A `Run` that is unbroken, and one that is broken off inside an epoch and goes on."""
    join(rank, ports)
    unbroken = _in_run(rank, f"{folder}/unbroken")
    try:
        _in_run(rank, f"{folder}/broken", cut=(2, 5))
    except PowerCut:
        resumed = _in_run(rank, f"{folder}/broken")
    dist.barrier()
    dist.destroy_process_group()
    return unbroken, resumed


def _in_run(rank, folder, cut=None):
    torch.manual_seed(rank)
    model, optimizer = in_pieces()
    n_batches = 0
    with Run(folder, model=model, optimizer=optimizer, monitor="val_loss", patience=5, verbose=0,
             save_every=Every(batches=2)) as run:  # fmt: skip
        for epoch in run.epochs(4):
            for batch in run.batches(range(7)):
                n_batches += 1
                x = torch.randn(16, 8)
                loss = torch.nn.functional.mse_loss(model(x), x[:, :5])
                optimizer.zero_grad()
                loss.backward()
                if (epoch, batch) == cut:
                    raise PowerCut
                optimizer.step()
                run.log(loss=loss)
            run.log(val_loss=VAL_LOSS[epoch] + rank / 100)
    best = str(run.best).replace(folder, "")
    return [best, run.history.history, state_of(model, optimizer)], n_batches
