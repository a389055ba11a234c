"""A training for a container, a cluster, a queue: everything that it keeps lies in one folder.

Put your own in its place. What it needs to go on wherever it is started next: a folder that lies on
a volume; the `Run`; SIGUSR1, with which Slurm says that time is over; and a look whether anything
is left to do, for whoever starts it cannot always know.
"""

import argparse
import signal
import sys

import torch

from peakhold import Run
from peakhold.ledger import RunFolder

parser = argparse.ArgumentParser()
parser.add_argument("--folder", default="/runs/example", help="(default: %(default)s)")
parser.add_argument("--epochs", type=int, default=30, help="(default: %(default)s)")
options = parser.parse_args()

if RunFolder(options.folder).status().word == "ended":
    print(f"{options.folder}: the run has ended, nothing is left to do")
    sys.exit()

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(1600, 16)
y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()
train = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(x[:1280], y[:1280]), batch_size=32, shuffle=True
)
model = torch.nn.Sequential(
    torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 2)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
loss_of = torch.nn.CrossEntropyLoss()

with Run(
    options.folder, model=model, optimizer=optimizer, extra={"scheduler": scheduler},
    monitor="val_loss", patience=10, signals=[signal.SIGUSR1],
) as run:  # fmt: skip
    for _ in run.epochs(options.epochs):
        model.train()
        for xs, ys in run.batches(train):
            loss = loss_of(model(xs), ys)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
        scheduler.step()
        model.eval()
        with torch.no_grad():
            run.log(val_loss=loss_of(model(x[1280:]), y[1280:]))

print(f"best: {run.best}")
