"""Real processes of several workers on torch, and what becomes of them: a program for tests.

`python fates.py FOLDER NAME...` forks the workers of each scenario, when torch has been imported
once, waits for them, and prints a line of JSON for each: how each process ended, how long the last
one took after the first had, what they said, and after how many batches of which epoch.
"""

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import time
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

import peakhold
from peakhold import BackupAndRestore, CallbackList, EarlyStopping, ModelCheckpoint
from peakhold.distributed import Limits, Workers, finding

LIMITS = {"wait": 60.0, "handshake": 60.0, "beat": 0.1, "silent": 1.0}
LONG = 1_000_000


class Worker:
    """One process.

    Args:
        name: Of the scenario.
        folder: Where all of them write.
        rank: Its number.
    """

    def __init__(self, name, folder, rank):
        self.name, self.folder, self.rank = name, folder, rank
        self.net = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.net.weight)
        self.file = os.open(f"{folder}/{name}-{rank}.done", os.O_RDWR | os.O_CREAT)

    def begin(self, callbacks, epochs=3, **limits):
        look_often(**limits)
        self.list = CallbackList(callbacks, self.net, epochs=epochs, verbose=0)
        self.epochs = epochs

    @property
    def coordinator(self):
        return self.list._peakhold_running.session.coordinator

    def train(self, n_batches=5, after_batch=lambda *_: None, after_epoch=lambda _: None):
        """The loop of a user, with a collective in each batch."""
        run, done = self.list, 0
        run.on_train_begin()
        for epoch in range(run.initial_epoch, self.epochs):
            run.on_epoch_begin(epoch)
            for batch in range(n_batches):
                dist.all_reduce(torch.ones(1))
                with torch.no_grad():
                    self.net.weight += 1
                done += 1
                os.pwrite(self.file, f"{epoch} {batch + 1} {done:9}\n".encode(), 0)
                after_batch(epoch, batch)
                run.on_train_batch_end(batch)
                if run.stop_training:
                    break
            after_epoch(epoch)
            run.on_epoch_end(epoch, {"loss": 1.0 - 0.01 * epoch})
            if run.stop_training:
                break
        run.on_train_end()


def look_often(**limits):
    """Have a group that is found be one whose threads look more often than they do."""

    def workers(channel, where):
        return Workers(channel, Limits(**{**LIMITS, **limits}), where)

    finding.Workers = workers


def kill(number, here=True):
    if here:
        os.kill(os.getpid(), number)


def at(place, work, on):
    """Do something after one batch, where it applies."""
    return lambda epoch, batch: work() if on and (epoch, batch) == place else None


def stopper():
    return EarlyStopping("loss", patience=9, restore_best_weights=True)


# Scenarios: what each worker does


def killed_in_a_batch(worker):
    worker.begin([stopper()])
    worker.train(after_batch=at((1, 2), lambda: kill(signal.SIGKILL), worker.rank == 1))


def killed_before_an_exchange(worker):
    worker.begin([stopper()])
    worker.train(after_epoch=lambda epoch: kill(signal.SIGKILL, epoch == 1 and worker.rank == 1))


def killed_in_a_save(worker):
    class Net(torch.nn.Linear):
        def state_dict(self, *args, **kwargs):
            kill(signal.SIGKILL, bool(getattr(worker, "saves", False)) and worker.rank == 0)
            return super().state_dict(*args, **kwargs)

    worker.net = Net(1, 1, bias=False)
    worker.begin([ModelCheckpoint(f"{worker.folder}/kill.safetensors", save_freq="epoch")])
    worker.train(after_epoch=lambda epoch: setattr(worker, "saves", epoch == 1))


def killed_in_the_handshake(worker):
    worker.begin([stopper()])
    if worker.rank == 1:  # its thread has given a sign of life, and the other waits for it

        def meet(workers, offer):
            workers._life.begin()
            while workers._life.process_of(1) is None or workers._life.process_of(0) is None:
                time.sleep(0.01)
            kill(signal.SIGKILL)

        Workers.meet = meet
    worker.train()


def never_begins(worker):
    if worker.rank == 0:
        worker.begin([stopper()], handshake=2.0)
        worker.train()
    else:
        dist.barrier()


def sleeps(worker):
    worker.begin([stopper()], wait=4.0)
    worker.train(after_epoch=lambda epoch: kill(signal.SIGSTOP, epoch == 1 and worker.rank == 1))


def sleeps_in_a_batch(worker):
    worker.begin([stopper()])
    worker.train(after_batch=at((1, 2), lambda: kill(signal.SIGSTOP), worker.rank == 1))


def raises_in_its_loop(worker):
    def fail(epoch):
        if epoch == 1 and worker.rank == 1:
            raise ValueError("the user's own")

    worker.begin([stopper()])
    worker.train(after_epoch=fail)


def raises_in_a_callback(worker):
    class Own(EarlyStopping):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1 and worker.rank == 1:
                raise ValueError("the callback's own")
            super().on_epoch_end(epoch, logs)

    worker.begin([Own("loss", patience=9, restore_best_weights=False)])
    try:
        worker.train()
    except ValueError:
        with contextlib.suppress(RuntimeError):
            dist.barrier()  # it lives on, until the other one has heard and is gone
        raise


def ends_early(worker):
    def leave(epoch):
        if epoch == 1 and worker.rank == 1:
            worker.list.on_train_end()
            sys.exit(0)

    worker.begin([stopper()])
    worker.train(after_epoch=leave)


def has_fewer_batches(worker):
    worker.begin([stopper()], notice=1.0)
    worker.train(5 - worker.rank)


def differs(worker):
    worker.begin([EarlyStopping("loss", patience=2 + worker.rank, restore_best_weights=False)])
    worker.train()


def ctrl_c_on_one(worker):
    worker.begin([stopper()])
    worker.train(LONG, at((0, 20), lambda: kill(signal.SIGINT), worker.rank == 1))


def sigterm_to_one(worker):
    worker.begin([BackupAndRestore(f"{worker.folder}/one", save_freq=LONG)])
    worker.train(LONG, at((0, 20), lambda: kill(signal.SIGTERM), worker.rank == 1))


def sigterm_to_all(worker):
    worker.begin([BackupAndRestore(f"{worker.folder}/all")])
    worker.train(LONG, at((0, 20), lambda: kill(signal.SIGTERM), True))


def sigterm_while_one_is_gone(worker):
    worker.begin([BackupAndRestore(f"{worker.folder}/gone", save_freq=LONG)])

    def end():
        if worker.rank == 1:
            kill(signal.SIGKILL)
        while worker.coordinator.lost() is None:
            time.sleep(0.01)
        kill(signal.SIGTERM)
        while True:  # a long batch, in Python
            time.sleep(0.01)

    worker.train(LONG, at((0, 20), end, True))


def ctrl_c_in_fit(worker):
    import keras
    from peakhold.keras import CallbackList as KerasList

    class Counting(keras.Sequential):
        n_seen = 0

        def train_step(self, data):
            self.n_seen += 1
            os.pwrite(worker.file, f"0 {self.n_seen} {self.n_seen:9}\n".encode(), 0)
            kill(signal.SIGINT, self.n_seen == 20 and worker.rank == 1)
            return super().train_step(data)

    model = Counting([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = np.zeros((200_000, 1), "float32")
    own = KerasList([peakhold.keras.EarlyStopping("loss", patience=9)], model=model, epochs=1)
    look_often()
    model.fit(data, data, batch_size=1, epochs=1, verbose=0, callbacks=own)


# The program


def _live(name, folder, rank, size, port):
    output = os.open(f"{folder}/{name}-{rank}.out", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.dump_traceback_later(60, exit=True)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size,
        timeout=timedelta(seconds=6),
    )  # fmt: skip
    try:
        globals()[name](Worker(name, folder, rank))
    finally:
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()
    dist.destroy_process_group()


def _free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _reap(pids):
    """Wait for all; those that sleep are ended when the others have."""
    ends, statuses, limit = {}, {}, time.monotonic() + 45
    while len(statuses) < len(pids):
        for rank, pid in enumerate(pids):
            if rank in statuses:
                continue
            done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if done and not os.WIFSTOPPED(status):
                statuses[rank], ends[rank] = os.waitstatus_to_exitcode(status), time.monotonic()
            elif done:
                ends[rank] = time.monotonic()
                asleep = pid
        if time.monotonic() > limit:
            for rank, pid in enumerate(pids):
                if rank not in statuses:
                    os.kill(pid, signal.SIGKILL)
            limit += 1000
        elif len(ends) == len(pids) and len(statuses) == len(pids) - 1:
            os.kill(asleep, signal.SIGKILL)
        time.sleep(0.01)
    return [statuses[rank] for rank in range(len(pids))], max(ends.values()) - min(ends.values())


def _main(folder, names):
    sizes = {"sigterm_while_one_is_gone": 3, "ctrl_c_on_one": 3}
    for name in names:
        size, port = sizes.get(name, 2), _free_port()
        pids = []
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                _live(name, folder, rank, size, port)
                return
            pids.append(pid)
        statuses, seconds = _reap(pids)
        said, done = [], []
        for rank in range(size):
            with open(f"{folder}/{name}-{rank}.out", errors="replace") as file:
                said.append(file.read())
            with contextlib.suppress(OSError), open(f"{folder}/{name}-{rank}.done") as file:
                done.append(file.read().split())
        found = {"name": name, "ended": statuses, "seconds": seconds, "said": said, "done": done}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
