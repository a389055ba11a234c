"""Runs of several workers in threads of one process: `peakhold.Run` over the fakes of `testing`."""

import threading

import numpy as np

from peakhold import Run
from peakhold.distributed import Limits, Workers
from peakhold.testing import FakeHub, run_workers

QUICK = Limits(60, 60, beat=0.02, silent=5.0)
"""Threads look often, so that tests need not wait for them."""


class Runs:
    """The loops of all workers, which meet in each batch as those of DDP do.

    Args:
        folder: Of the run.
        size: How many workers there are.
        n_batches: Of an epoch.
        epochs: How many.
        body: Called in each batch with the run, the rank, the epoch and the batch.
        logs: Called with a rank, an epoch and a batch: what is logged.
        evaluate: Called with the run and the rank when an epoch's batches are done.
        arguments: Of the run.
    """

    def __init__(
        self, folder, size=2, *, n_batches=6, epochs=3, body=None, evaluate=None,
        logs=lambda rank, epoch, batch: 1.0 / (1 + epoch) + rank, **arguments,
    ):  # fmt: skip
        self.folder, self.size, self.hub = folder, size, FakeHub(size)
        self.n_batches, self.epochs, self.body = n_batches, epochs, body
        self.logs, self.evaluate, self.arguments = logs, evaluate, arguments
        self.barrier, self.shared = threading.Barrier(size), [0.0] * size
        self.runs, self.trained_from = [None] * size, [None] * size
        self.done = [[] for _ in range(size)]
        """By rank: the epoch and the batch of each batch that was trained."""

    def run(self):
        """Run all; by rank, the run, or what was raised."""
        return run_workers(self.size, self.work)

    def make(self, rank):
        """A worker's run."""
        given = {"monitor": "loss", "patience": 9, "save_every": "epoch", **self.arguments}
        given = {name: one(rank) if callable(one) else one for name, one in given.items()}
        return Run(
            self.folder, state={"w": np.zeros(1)}, verbose=0,
            workers=Workers(self.hub.channel(rank), QUICK), **given,
        )  # fmt: skip

    def work(self, rank):
        """One worker's loop, on data of its own."""
        run = self.runs[rank] = self.make(rank)
        loader = Rows(rank, self.n_batches)
        try:
            with run:
                for epoch in run.epochs(self.epochs):
                    for batch, rows in enumerate(run.batches(loader)):
                        self._train(run, rank, epoch, batch, rows)
                    if self.evaluate is not None:
                        self.evaluate(run, rank, epoch)
        except BaseException:
            self.barrier.abort()  # a collective of the engine's ends so
            raise
        return run

    def _train(self, run, rank, epoch, batch, rows):
        if self.trained_from[rank] is None:
            self.trained_from[rank] = {"batch": batch, **run.state}
        self.shared[rank] = rows.sum()
        self.barrier.wait(30)
        gradient = sum(self.shared)
        self.barrier.wait(30)
        run.state = {"w": 0.7 * run.state["w"] + gradient}
        run.log(loss=self.logs(rank, epoch, batch))
        self.done[rank].append((epoch, int(rows[0, 0])))
        if self.body is not None:
            self.body(run, rank, epoch, batch)


class Rows:
    """Batches of a worker's own: in another order each epoch, of its own number of rows."""

    def __init__(self, rank, n_batches):
        self.rank, self.n_batches = rank, n_batches
        self.generator = np.random.default_rng(rank)

    def __iter__(self):
        for index in self.generator.permutation(self.n_batches):
            yield np.full((2 + self.rank, 1), float(index))
