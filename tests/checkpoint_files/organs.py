"""A model of one array, and requests to save it: all that the organs need of a run."""

import os

import numpy as np

from peakhold import LoopHost
from peakhold._core.monitor import Direction
from peakhold._core.policies.keep import KeepBest
from peakhold._core.policies.keep_files import keep_files
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.checkpoint_files.requests import SaveRequest, about_to_be_saved
from peakhold.checkpoint_files.retention import Retention
from peakhold.snapshots.pool import SnapshotPool

NBYTES = 800


class Model:
    """What is trained, the folder it is saved to, and the memory for its copies."""

    def __init__(self, folder, template="w_{epoch}.safetensors", *, run="r1", worker=0, **host):
        self.weights = {"w": np.zeros(NBYTES // 8)}
        host = host or {"get_state": lambda: self.weights, "set_state": self.weights.update}
        self.host = LoopHost(**host)
        self.pool = SnapshotPool(lambda: self.host)
        self.template = str(folder / template)
        self.run, self.worker = run, worker
        self.folder = CheckpointFolder(self.template, ".safetensors", run, worker=worker)

    def request(self, epoch, value=None, *, keep_last=None, keep_best=None, policy=None, **more):
        path = self.template.format(epoch=epoch, worker=self.worker, run_id=self.run)
        logs = {} if value is None else {"loss": value}
        policy = policy or keep_files(keep_last, keep_best, "loss", Direction.MIN)
        more = {"value": value, "exempt": frozenset(), "goes_on": False, **more}
        if policy is not None:
            more["retention"] = Retention(policy, goes_on=False, ranks=KeepBest("loss", "min"))
        saved = about_to_be_saved(
            epoch, None, logs, monitor="loss", mode="min", run_id=self.run, versions={}
        )
        return SaveRequest(path, path, saved, **more)

    def save(self, epoch, value=None, **more):
        return self.folder.save(self.request(epoch, value, **more), self.write)

    def write(self, file):
        self.host.write(file, ".safetensors", os.path.dirname(self.template))
