"""Runs of `deploy/example/train.py`, and what they leave."""

import hashlib

import containers
from peakhold.store import Reader

N_EPOCHS = 10
ARGUMENTS = ["--epochs", str(N_EPOCHS)]
TRAIN = containers.ROOT / "deploy" / "example" / "train.py"


def n_epochs(runs):
    """Epochs in the log."""
    try:
        return max(0, (runs / "example" / "metrics.csv").read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def left(runs):
    """The bits that a run leaves: best weights, all that was trained at the end, the log."""
    folder = runs / "example"
    end = Reader(folder / "checkpoints").latest.path
    parts = [path for path in end.iterdir() if path.stem in {"weights", "optimizer", "extra"}]
    assert {path.stem for path in parts} == {"weights", "optimizer", "extra"}
    files = [folder / "best.safetensors", folder / "metrics.csv", *parts]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}
