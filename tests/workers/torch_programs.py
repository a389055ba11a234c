"""Programs of several workers on PyTorch, each a function of its rank: `forked.py` runs them."""

import inspect
import os
import resource
import runpy
import signal
import time
import warnings

import torch
import torch.distributed as dist
from exchange_cost import REPORT, medians
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from peakhold import (
    BackupAndRestore,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from peakhold.distributed import Mean

torch.set_num_threads(1)


def join(rank, ports, store=None):
    """This process is one of as many as there are ports."""
    if store is not None:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=len(ports))
        return
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(ports[0]),
        RANK=str(rank), WORLD_SIZE=str(len(ports)),
    )  # fmt: skip
    dist.init_process_group("gloo")


UNSYNCED = {"forward_sync_buffers": False}
if "forward_sync_buffers" not in inspect.signature(DistributedDataParallel).parameters:
    UNSYNCED = {"broadcast_buffers": False}  # torch before 2.13


class Group:
    """A group that is destroyed, however the program ends."""

    def __init__(self, rank, ports, store=None):
        self._arguments = rank, ports, store

    def __enter__(self):
        join(*self._arguments)

    def __exit__(self, *_):
        dist.destroy_process_group()


# What a worker costs


def rounds(rank, ports, count):
    """Seconds of a round, and of the same by gloo's own exchange of objects."""
    from peakhold.distributed.torch_store import torch_channel, torch_group
    from peakhold.distributed.workers import Workers

    with Group(rank, ports):
        workers = Workers(torch_channel(torch_group()))
        workers.meet({})

        def gloos():
            dist.gather_object(REPORT, [None] * len(ports) if rank == 0 else None)
            dist.broadcast_object_list([REPORT], src=0)

        taken = medians(workers, gloos, count)
        dist.barrier()
        workers.close()
    return taken


# The store of a group


def stores(rank, ports, folder):
    """A run in each of several groups, one after the other, over stores of several kinds."""
    found = []
    size = len(ports)
    shared = dist.TCPStore("127.0.0.1", ports[1], size, rank == 0)  # as a launcher's: outlives all
    kinds = {
        "by environment": lambda: None,
        "FileStore": lambda: dist.FileStore(os.path.join(folder, "store"), size),
        "TCPStore": lambda: shared,
        "PrefixStore": lambda: dist.PrefixStore("mine", shared),
    }
    for kind, make in kinds.items():
        with Group(rank, ports, make()):
            run = CallbackList([EarlyStopping("loss", patience=1)], epochs=3, verbose=0)
            run.on_train_begin()
            logs = {"loss": Mean(rank, weight=1 + rank)}
            if rank == 1 and kind in {"by environment", "FileStore"}:
                time.sleep(1.2)  # longer than a slice of a wait: nothing may be printed of it
            run.on_epoch_begin(0)
            run.on_epoch_end(0, logs)
            run.on_train_end()
            found.append([kind, logs["loss"]])
    return found


# Training


class Training:
    """A net with dropout, wrapped by DDP, on data of each worker's own."""

    def __init__(self, rank, size, *, batchnorm=False, rows=48, **ddp):
        torch.manual_seed(7)
        layers = [torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
        layers += [torch.nn.BatchNorm1d(16)] * batchnorm
        self.net = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1))
        self.model = DistributedDataParallel(self.net, **ddp)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.x, self.y = self._data(rank, rows)
        self.val_x, self.val_y = self._data(rank + 10, 16 + 8 * rank)
        torch.manual_seed(100 + rank)  # dropout and shuffling are each worker's own

    @staticmethod
    def _data(seed, rows):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, 8, generator=generator)
        noise = torch.randn(rows, generator=generator)
        return x, (x[:, 0] - x[:, 1] + noise)[:, None]

    def train(self, batch_size=16):
        """An epoch; yields after each batch."""
        self.model.train()
        for rows in torch.randperm(len(self.x)).split(batch_size):
            self.optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows])
            loss.backward()
            self.optimizer.step()
            yield loss.item()

    def validate(self):
        self.model.eval()
        with torch.no_grad():
            return torch.nn.functional.mse_loss(self.net(self.val_x), self.val_y).item()

    def state(self):
        """Weights and buffers, to compare."""
        return {name: one.tolist() for name, one in self.net.state_dict().items()}


def loop(training, callbacks, epochs, *, on_batch=None, on_epoch=None):
    """The loop of a user; returns what each epoch's dict held after the callbacks."""
    run = CallbackList(
        callbacks, model=training.model, optimizer=training.optimizer, epochs=epochs, verbose=1
    )
    run.on_train_begin()
    shown = []
    for epoch in range(run.initial_epoch, epochs):
        run.on_epoch_begin(epoch)
        losses = []
        for batch, loss in enumerate(training.train()):
            losses.append(loss)
            run.on_train_batch_end(batch, {"loss": loss})
            if on_batch is not None:
                on_batch(epoch, batch)
        val_loss = training.validate()
        logs = {"loss": sum(losses) / len(losses)}
        logs["val_loss"] = Mean(val_loss, weight=len(training.val_y))
        own = dict(logs)
        run.on_epoch_end(epoch, logs)
        shown.append([{name: float(value) for name, value in one.items()} for one in (own, logs)])
        if on_epoch is not None:
            on_epoch(epoch)
        if run.stop_training:
            break
    run.on_train_end()
    return shown


def all_of_them(folder, patience=3, **saving):
    """The callbacks of the first page, in one folder."""
    return [
        ReduceLROnPlateau("val_loss", factor=0.5, patience=1, verbose=1),
        EarlyStopping("val_loss", patience=patience, restore_best_weights=True, verbose=1),
        ModelCheckpoint(
            f"{folder}/best.safetensors",
            monitor="val_loss",
            save_best_only=True,
            verbose=1,
            **saving,
        ),
        CSVLogger(f"{folder}/log.csv"),
        BackupAndRestore(f"{folder}/backup"),
    ]


def seen(callbacks):
    """What a user reads from their attributes."""
    rates, stopping, saving, *_ = callbacks
    return {
        "stopping": [stopping.best, stopping.best_epoch, stopping.stopped_epoch, stopping.wait],
        "saving": [saving.best, saving.best_epoch, saving.best_path],
        "rates": rates.best,
    }


def train(rank, ports, folder, epochs=30, victim=None, buffers=None):
    """A plain loop with DDP; with `buffers` the net has statistics, which no collective syncs."""

    def perhaps_die(epoch, batch):
        if victim == [rank, epoch, batch]:
            os.kill(os.getpid(), signal.SIGKILL)

    with Group(rank, ports):
        if buffers is None:
            training, callbacks = Training(rank, len(ports)), all_of_them(folder)
        else:
            training = Training(rank, len(ports), batchnorm=True, **UNSYNCED)
            callbacks = all_of_them(folder, buffers=buffers)
        shown = loop(training, callbacks, epochs, on_batch=perhaps_die)
        rate = training.optimizer.param_groups[0]["lr"]
        return {
            "shown": shown, "weights": training.state(), "seen": seen(callbacks), "rate": rate,
        }  # fmt: skip


def example(rank, ports, script, folder):
    """A script as `torchrun` starts it."""
    os.chdir(folder)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(ports[0]),
        RANK=str(rank), WORLD_SIZE=str(len(ports)),
    )  # fmt: skip
    runpy.run_path(script, run_name="__main__")


# Files


def disk(rank, ports, folder, full_from, full_to):
    """From one epoch to another the disk takes no more than a hundred bytes, on rank 0 alone."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    # Recorded: what is printed goes into a file, which is full as well.
    with Group(rank, ports), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = torch.nn.Linear(8, 8)
        stopping = EarlyStopping("val_loss", patience=3)
        saving = ModelCheckpoint(f"{folder}/best.safetensors", save_best_only=True)
        own = ModelCheckpoint(f"{folder}/own-{{worker}}.safetensors", save_best_only=True)
        run = CallbackList([stopping, saving, own], model=model, epochs=6, verbose=1)
        run.on_train_begin()
        for epoch in range(6):
            run.on_epoch_begin(epoch)
            torch.nn.init.constant_(model.weight, 10 * epoch + rank)
            full = rank == 0 and full_from <= epoch < full_to
            limits = 100 if full else hard, hard
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            run.on_epoch_end(epoch, {"val_loss": 1 / (1 + epoch) + rank})
        run.on_train_end()
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        files = [saving.best_epoch, saving.best_path, own.best_epoch, own.best_path]
        said = [str(one.message) for one in caught]
        return {"said": said, "best": saving.best, "files": files, "of_stopping": stopping.best}


def one_file(rank, ports, folder, tries, ours):
    """All workers save to one path at one moment; how often the file is not what rank 0 had."""
    path, bad = f"{folder}/model.safetensors" if ours else f"{folder}/model.pt", 0
    with Group(rank, ports):
        model = torch.nn.Linear(1000, 2000)  # 8 MB
        saving = ModelCheckpoint(path, "loss")
        run = CallbackList([saving] * ours, model=model, epochs=tries, verbose=0)
        run.on_train_begin()
        for epoch in range(tries):
            run.on_epoch_begin(epoch)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(10 * epoch + rank)
            dist.barrier()
            if not ours:
                torch.save(model.state_dict(), path)
            run.on_epoch_end(epoch, {"loss": 0.5})
            dist.barrier()
            if rank == 0:
                bad += _numbers_in(path, ours) != {10.0 * epoch}
            dist.barrier()
        run.on_train_end()
    return bad


def _numbers_in(path, ours):
    try:
        state = load_file(path) if ours else torch.load(path)
    except Exception as error:  # whatever a torn file does to its reader
        return {type(error).__name__}
    return {number for array in state.values() for number in array.unique().tolist()}
