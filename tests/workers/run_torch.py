"""`peakhold.Run` with DistributedDataParallel, as it is killed and goes on.

A user's script for `torchrun`, too:

    PYTHONPATH=tests python run_torch.py FOLDER [RANK KILL]

`KILL` is as in `killing.armed`, or `batch:20`, or `term:20` (SIGTERM); rank -1 is all of them. It is
done in the first attempt alone.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torch_programs import join

import run_programs
from killing import armed
from peakhold import Every, Run
from peakhold.backup.keeping import Keeping
from run_kills import Marker

N_EPOCHS, N_BATCHES = 4, 12
SIGNALS = {"batch": signal.SIGKILL, "term": signal.SIGTERM}


def loop(folder, rank, size, hook=run_programs.no_hook, **arguments):
    """AdamW, a scheduler, dropout, batch normalization, noise of each worker's own."""
    torch.manual_seed(0)
    rows, labels = (torch.from_numpy(one) for one in run_programs.data())
    sampler = DistributedSampler(
        TensorDataset(rows, labels), size, rank, shuffle=True, drop_last=True
    )
    loader = DataLoader(sampler.dataset, batch_size=96 // N_BATCHES // size, sampler=sampler)
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2),
        torch.nn.Linear(16, 2),
    )  # fmt: skip
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_EPOCHS)
    loss_of = torch.nn.CrossEntropyLoss()
    torch.manual_seed(100 + rank)
    own = slice(rank, None, size)
    run = Run(
        folder, model=model, optimizer=optimizer, extra={"scheduler": scheduler},
        **{"monitor": "val_loss", "patience": 8, "verbose": 0, **arguments},
    )  # fmt: skip
    with run:
        for epoch in run.epochs(N_EPOCHS):
            model.train()
            for batch, (x, y) in enumerate(run.batches(loader)):
                optimizer.zero_grad()
                loss = loss_of(model(x + 0.1 * torch.randn_like(x)), y)
                loss.backward()
                hook("batch")
                optimizer.step()
                run.log(loss=loss)
            scheduler.step()
            model.eval()
            with torch.no_grad():
                for x, y in run.batches([(rows[own], labels[own])] * (1 + rank), "val"):
                    hook("evaluation")
                    run.log(loss=loss_of(net(x), y))
    return run, [net.state_dict(), optimizer.state_dict(), scheduler.state_dict(), sampler.epoch]


def sent_in_batch(number, sent, marker):
    """A hook that sends its process a signal in that batch, counted from 1 over all epochs."""
    batches = itertools.count(1)

    def hook(place):
        marker(place)
        if place == "batch" and next(batches) == number:
            os.kill(os.getpid(), sent)

    return hook


def live(folder, rank, size, kill, attempt):
    """One worker, from its group to the file of what it leaves."""
    how, _, when = kill.partition(":")
    marker = Marker(Path(folder, f"place-{attempt}-{rank}"))
    hook = sent_in_batch(int(when), SIGNALS[how], marker) if how in SIGNALS else marker
    Keeping._save = marker.during("save", Keeping._save)
    made, begun = armed(how, when), time.monotonic()
    run, trained = loop(Path(folder, "run"), rank, size, hook, save_every=Every(batches=3))
    seconds = time.monotonic() - begun
    told = run_programs.told(Path(folder, "run"), run, trained)
    told |= {"history": run.history.history, "latest": run.latest.reason}
    return told, {"calls": made[0], "seconds": seconds, "attempt": attempt}


def work(rank, ports, folder, victim=None, kill=""):
    """As `forked.py` calls it."""
    join(rank, ports)
    try:
        return live(folder, rank, len(ports), kill if victim in {rank, -1} else "", int(not kill))
    finally:
        with contextlib.suppress(RuntimeError):  # the others are gone
            dist.destroy_process_group()


def main(folder, victim="0", kill=""):
    dist.init_process_group("gloo")
    rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    is_victim = attempt == 0 and int(victim) in {rank, -1}
    ended = live(folder, rank, dist.get_world_size(), kill if is_victim else "", attempt)
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(ended))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
