"""Programs of workers that hold a model in pieces (FSDP2); run by `forked.py`."""

import os
import signal

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from peakhold import BackupAndRestore, CallbackList, CSVLogger, EarlyStopping, ModelCheckpoint

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


def train(rank, ports, folder, killed=None, disk=None):
    """Six epochs; `killed`: the epoch in which the last rank kills itself."""
    join(rank, ports)
    os.chdir(folder)  # states are filed by path: a copy of the folder is gone on from as it is
    torch.manual_seed(rank)
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
        run.on_epoch_end(epoch, {"val_loss": VAL_LOSS[epoch] + rank / 100})
        if run.stop_training:
            break
    run.on_train_end()
    states["end"] = state_of(model, optimizer)
    best = [stopper.best, stopper.best_epoch, saver.best, saver.best_path, saver.best_epoch]
    dist.barrier()
    dist.destroy_process_group()
    return [began, states, best]


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
