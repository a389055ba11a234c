"""`Run` with DistributedDataParallel; the same script for one process and for many.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node=4 --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=localhost:0 \\
        examples/ddp_run.py

Kill a worker, or all of them: it goes on inside the epoch, and ends with the same bits.
"""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from peakhold import Run

EPOCHS, FOLDER = 12, "runs/ddp_run"


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
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))
    model = DistributedDataParallel(net) if many else net
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    torch.manual_seed(100 + rank)  # what is drawn from now on is each rank's own

    # `drop_last`: DDP waits for every rank in every batch, so all need as many.
    train, valid = data(1, 192), data(2, 64)
    sampler = DistributedSampler(train, size, rank, drop_last=True)
    loader = DataLoader(train, batch_size=16, sampler=sampler)
    own_valid = DataLoader(valid, batch_size=16, sampler=range(rank, len(valid), size))

    with Run(FOLDER, model=model, optimizer=optimizer, monitor="val_loss", patience=4) as run:
        for _ in run.epochs(EPOCHS):  # stops on every rank at the same epoch
            model.train()
            for x, y in run.batches(loader):  # set_epoch is called
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                run.log(loss=loss)  # the mean over the rows of all ranks
            model.eval()
            with torch.no_grad():
                for x, y in run.batches(own_valid, "val"):
                    run.log(loss=torch.nn.functional.mse_loss(net(x), y))
    if rank == 0:
        print(run.best)
    if many:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
