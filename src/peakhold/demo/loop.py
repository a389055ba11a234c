"""A loop of PyTorch on `peakhold.Run`, as a process of its own, which may kill itself.

`python -m peakhold.demo.loop FOLDER` trains, or goes on; the last line that it prints is a checksum
of all bits that were trained. With `--kill-at N` it sends itself SIGKILL in the middle of its N-th
batch: nothing is flushed, nothing is caught, as in a power cut.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Sequence

import numpy as np

from peakhold import Every, Run
from peakhold.demo.data import digits
from peakhold.trees import leaves

__all__ = ["main", "train"]

N_EPOCHS = 6
BATCH_SIZE = 64
N_TRAIN = 1150


def train(folder: str, kill_at: int | None) -> str:
    """Train on the digits of scikit-learn; a checksum of weights, optimizer and schedule.

    Args:
        folder: The run's.
        kill_at: In which batch of this process it dies; None: it lives.
    """
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y, _, _ = digits()
    images = torch.tensor(x.reshape(len(x), -1) / 16, dtype=torch.float32)
    labels = torch.tensor(y.astype("int64"))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images[:N_TRAIN], labels[:N_TRAIN]),
        batch_size=BATCH_SIZE,
        shuffle=True,
    )
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(128, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_EPOCHS)
    loss_of = torch.nn.CrossEntropyLoss()
    batches = itertools.count(1)

    with Run(
        folder, model=model, optimizer=optimizer, extra={"scheduler": scheduler},
        monitor="val_accuracy", patience=5, save_every=Every(batches=10), verbose=0,
    ) as run:  # fmt: skip
        for _ in run.epochs(N_EPOCHS):
            model.train()
            for xs, ys in run.batches(loader):
                loss = loss_of(model(xs), ys)
                optimizer.zero_grad()
                loss.backward()
                if next(batches) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                optimizer.step()
                run.log(loss=loss)
            scheduler.step()
            model.eval()
            with torch.no_grad():
                scores = model(images[N_TRAIN:])
            run.log(val_accuracy=(scores.argmax(1) == labels[N_TRAIN:]).float().mean())
    states = [model.state_dict(), optimizer.state_dict(), scheduler.state_dict()]
    whole = hashlib.sha256()
    for name, value in leaves(states):
        bits = np.asarray(value).tobytes() if hasattr(value, "shape") else repr(value).encode()
        whole.update(name.encode() + bits)
    return whole.hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, and train."""
    parser = argparse.ArgumentParser(prog="python -m peakhold.demo.loop")
    parser.add_argument("folder")
    parser.add_argument("--kill-at", type=int)
    options = parser.parse_args(argv)
    print(train(options.folder, options.kill_at))
    return 0


if __name__ == "__main__":
    sys.exit(main())
