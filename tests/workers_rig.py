"""Loops of several workers in threads, which meet in each batch as those of DDP do."""

import threading

import numpy as np

from peakhold import Callback, CallbackList
from peakhold.distributed import Limits, Workers
from peakhold.testing.workers import FakeHub, run_workers

QUICK = Limits(60, 60, beat=0.02, silent=0.2)
"""Threads look often, so that tests need not wait for them."""


class Model:
    """A model whose weight says how many batches it has seen."""

    def __init__(self):
        self.weights = [np.zeros(1)]
        self.stop_training = False

    def get_weights(self):
        return list(self.weights)

    def set_weights(self, weights):
        self.weights = [np.array(one, dtype=float) for one in weights]


class At(Callback):
    """Does something once, after a given batch, on the given rank.

    Args:
        epoch: In which epoch.
        batch: After which batch.
        work: Called with this callback.
    """

    def __init__(self, epoch, batch, work):
        super().__init__()
        self.epoch, self.batch, self.work = epoch, batch, work
        self.now = None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            self.work(self)


class Loops:
    """What the loops of all workers have in common, and what each has done.

    Args:
        size: How many workers there are.
        callbacks: Called with a rank: its callbacks.
        n_batches: Of an epoch; called with a rank and an epoch.
        logs: Of an epoch; called with a rank and an epoch.
        batch_logs: Of a batch; called with a rank and a batch.
        in_step: Whether each batch waits for all to begin it.
        epochs: How many.
        limits: For how long workers wait.
        hub: What they share.
    """

    def __init__(
        self, size, callbacks, *, n_batches=lambda rank, epoch: 10, epochs=3,
        logs=lambda rank, epoch: {"loss": 1.0}, batch_logs=lambda rank, batch: None, in_step=True,
        limits=QUICK, hub=None,
    ):  # fmt: skip
        self.size, self.callbacks, self.n_batches = size, callbacks, n_batches
        self.epochs, self.logs, self.batch_logs = epochs, logs, batch_logs
        self.limits, self.hub = limits, hub or FakeHub(size)
        self.barrier = threading.Barrier(size) if in_step else None
        self.models = [Model() for _ in range(size)]
        self.done = [[] for _ in range(size)]
        """By rank: how many batches each epoch had."""
        self.lists = [None] * size
        self.on_begin = lambda rank: None

    def run(self, timeout_s=60):
        """Run all; by rank, what the loop returned or raised."""
        try:
            return run_workers(self.size, self.work, timeout_s=timeout_s)
        finally:
            for one in self.lists:
                if one is not None:
                    session_of(one).coordinator.close()  # as a process's end does

    def work(self, rank):
        """One worker's loop."""
        model, channel = self.models[rank], self.hub.channel(rank)
        run = self.lists[rank] = CallbackList(
            self.callbacks(rank), model, epochs=self.epochs, verbose=0,
            workers=Workers(channel, self.limits, where=lambda: f"at {self.done[rank]}"),
        )  # fmt: skip
        try:
            run.on_train_begin()
            self.on_begin(rank)
            for epoch in range(run.initial_epoch, self.epochs):
                run.on_epoch_begin(epoch)
                self.done[rank].append(0)
                for batch in range(self.n_batches(rank, epoch)):
                    self._train(rank, model)
                    run.on_train_batch_end(batch, self.batch_logs(rank, batch))
                    if run.stop_training:
                        break
                run.on_epoch_end(epoch, self.logs(rank, epoch))
                if run.stop_training:
                    break
            run.on_train_end()
        except BaseException:
            if self.barrier is not None:
                self.barrier.abort()  # a collective of the engine's ends so
            raise
        return run

    def _train(self, rank, model):
        if self.barrier is not None:
            self.barrier.wait(30)
        model.weights = [model.weights[0] + 1.0]
        self.done[rank][-1] += 1


def session_of(callback_list):
    """The session of a list of the rig's."""
    return callback_list._peakhold_running.session
