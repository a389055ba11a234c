"""Runs of several workers in threads of one process, over the fakes of `peakhold.testing`."""

import numpy as np

import peakhold
from peakhold.testing import FakeHub, run_workers


class Model:
    """One array, a learning rate, and nothing else."""

    def __init__(self, value=0.0):
        self.state, self.rate = {"w": np.array([value])}, 0.1
        self.host = peakhold.LoopHost(
            get_state=lambda: self.state,
            set_state=self.put,
            get_learning_rate=lambda: self.rate,
            set_learning_rate=lambda rate: setattr(self, "rate", rate),
        )

    def put(self, state):
        self.state = {"w": np.array(state["w"])}

    @property
    def value(self):
        return float(self.state["w"][0])


class Ran:
    """What one worker has seen of its run."""

    def __init__(self):
        self.model = Model()
        self.epochs, self.logs, self.rates = [], [], []
        self.callbacks = {}


def train(callbacks, histories, *, channel=None, model=None, epochs=None, on_epoch=None):
    """Run a loop over recorded metrics: one list of dicts, by epoch.

    The weights after epoch `e` are `e + 1`, on every worker.
    """
    ran = Ran()
    ran.model = model or ran.model
    ran.callbacks = {type(one).__name__: one for one in callbacks}
    run = peakhold.CallbackList(
        callbacks, host=ran.model.host, epochs=epochs or len(histories), workers=channel, verbose=0
    )
    ran.run = run
    run.on_train_begin()
    for epoch in range(run.initial_epoch, len(histories)):
        run.on_epoch_begin(epoch)
        ran.rates.append(ran.model.rate)
        ran.model.state["w"][0] = epoch + 1
        if on_epoch is not None:
            on_epoch(ran, epoch)
        logs = dict(histories[epoch])
        run.on_epoch_end(epoch, logs)
        ran.epochs.append(epoch)
        ran.logs.append(logs)
        if run.stop_training:
            break
    run.on_train_end()
    return ran


def together(size, work, *, before=None, hub=None):
    """Run `work(rank, channel)` for each worker; the first error is raised."""
    results = attempted(size, work, before=before, hub=hub)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def attempted(size, work, *, before=None, hub=None):
    """The same; errors stand among the results."""
    hub = hub or FakeHub(size, before=before)
    return run_workers(size, lambda rank: work(rank, hub.channel(rank)))
