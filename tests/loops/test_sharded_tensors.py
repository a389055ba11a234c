"""A tensor that each worker holds a piece of is refused by its name, for one worker's is not all."""

import subprocess
import sys

PIECES = """
import torch, tempfile, warnings
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
import peakhold
from peakhold.store import Store

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
model = torch.nn.Linear(4, 2)
model.weight = torch.nn.Parameter(distribute_tensor(model.weight.data, mesh, [Shard(0)]))
folder = tempfile.mkdtemp()
for callback in (
    peakhold.EarlyStopping("m", mode="min", restore_best_weights=True),
    peakhold.ModelCheckpoint(folder + "/m.safetensors"),
    peakhold.BackupAndRestore(folder + "/backup"),
):
    run = peakhold.CallbackList(callback, model, epochs=2, verbose=0)
    try:
        run.on_train_begin()
    except peakhold.errors.InvalidArgumentError as error:
        assert "'weight'" in str(error) and "full_tensor()" in str(error), error
    else:
        raise AssertionError(type(callback))
with Store(folder + "/store") as store:
    try:
        store.save(1, {"model": model.state_dict()})
    except peakhold.errors.InvalidArgumentError as error:
        assert "'weight'" in str(error) and "full_tensor()" in str(error), error
    else:
        raise AssertionError("Store")
dist.destroy_process_group()
print("refused")
"""


def test_a_piece_of_a_tensor_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", PIECES], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip().endswith("refused"), done.stderr
