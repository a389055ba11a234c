"""A loop of your own with DistributedDataParallel; the same script for one process and for many.

    torchrun --nproc-per-node=4 --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=localhost:0 \\
        examples/ddp.py
"""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from peakhold import (
    BackupAndRestore,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from peakhold.distributed import Mean

EPOCHS, FOLDER = 12, "runs/ddp"


def data(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=generator)
    noise = torch.randn(rows, generator=generator)
    return TensorDataset(x, (x[:, 0] - x[:, 1] + noise)[:, None])


def main():
    many = "WORLD_SIZE" in os.environ  # torchrun sets it
    if many:
        dist.init_process_group("gloo")
    rank, size = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)

    torch.manual_seed(7)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    model = DistributedDataParallel(net) if many else net
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    torch.manual_seed(100 + rank)  # what is drawn from now on is each rank's own

    # `drop_last`: DDP waits for every rank in every batch, so all need as many.
    train, valid = data(1, 192), data(2, 64)
    sampler = DistributedSampler(train, size, rank, drop_last=True)
    loader = DataLoader(train, batch_size=16, sampler=sampler)
    own_valid = DataLoader(valid, batch_size=16, sampler=range(rank, len(valid), size))

    callbacks = CallbackList(
        [
            ReduceLROnPlateau("val_loss", factor=0.5, patience=2),
            EarlyStopping("val_loss", patience=4, restore_best_weights=True),
            ModelCheckpoint(f"{FOLDER}/best.safetensors", "val_loss", save_best_only=True),
            CSVLogger(f"{FOLDER}/log.csv"),
            BackupAndRestore(f"{FOLDER}/backup"),
        ],
        model=model, optimizer=optimizer, epochs=EPOCHS,
    )  # fmt: skip
    callbacks.on_train_begin()
    for epoch in range(callbacks.initial_epoch, EPOCHS):
        callbacks.on_epoch_begin(epoch)
        sampler.set_epoch(epoch)  # another order each epoch, and the same one after a restart
        model.train()
        losses = []
        for batch, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            callbacks.on_train_batch_end(batch, {"loss": losses[-1]})
        model.eval()
        total, rows = 0.0, 0
        with torch.no_grad():
            for x, y in own_valid:
                total += torch.nn.functional.mse_loss(net(x), y, reduction="sum").item()
                rows += len(y)
        val_loss = Mean(total / rows, weight=rows)
        callbacks.on_epoch_end(epoch, {"loss": sum(losses) / len(losses), "val_loss": val_loss})
        if callbacks.stop_training:  # on every rank at the same epoch
            break
    callbacks.on_train_end()
    if many:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
