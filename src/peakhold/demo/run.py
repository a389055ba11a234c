"""`python -m peakhold.demo`: train a small CNN on real digits, and check every claim it makes.

Nothing here is scripted: the rate is lowered, training stops, and the best epoch comes back because
real training made it so. It exits with 1 and a sentence if a claim does not hold, with 2 if it
could not begin, with 130 after Ctrl-C.

`KERAS_BACKEND` chooses the backend; without it, the first of TensorFlow, JAX and PyTorch that is
installed is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from peakhold.demo.data import DemoError, Images, load
from peakhold.demo.killed import show_a_kill
from peakhold.demo.receiver import Receiver
from peakhold.errors import PeakholdError

__all__ = ["main"]

BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
MONITOR = "val_accuracy"
BATCH_SIZE = 64
PATIENCE = 10  # epochs that stopping sits out
MAX_TRAINING_IMAGES = 4000  # of larger data sets: about a minute on two slow cores
INTERRUPTED = 130  # what shells say for a program that Ctrl-C ended


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What is left of a training run."""

    model: Any
    stopper: Any
    saver: Any
    board: Path
    log: Path
    backup: Path
    epochs: int
    """Epochs asked for."""
    messages: Sequence[str]
    """What the alert's receiver was sent."""


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """One thing the demo says, and whether it is so."""

    text: str
    holds: bool
    otherwise: str
    """What is the case if it does not hold."""


# Before Keras is imported


def choose_backend() -> str:
    """Settle the backend, which Keras reads once, when it is imported.

    Raises:
        DemoError: If it is unknown or not installed.
    """
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted is not None and wanted not in BACKENDS:
        raise DemoError(f"expected one of {', '.join(BACKENDS)}, got KERAS_BACKEND={wanted!r}.")
    candidates = [wanted] if wanted else list(BACKENDS)
    installed = [name for name in candidates if importlib.util.find_spec(BACKENDS[name])]
    if not installed:
        raise DemoError(
            f"expected {' or '.join(candidates)} to be installed.\n"
            "Hint: pip install 'peakhold[demo]' tensorflow-cpu (or jax, or torch)."
        )
    if importlib.util.find_spec("keras") is None:
        raise DemoError("expected Keras 3 to be installed.\nHint: pip install 'peakhold[demo]'.")
    return installed[0]


def import_keras(backend: str) -> Any:
    """Import Keras on a backend, without the chatter of TensorFlow's libraries."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    with quiet_libraries():
        if backend == "torch":
            import torch  # before TensorFlow

            # Batches this small gain nothing from a second thread, and on a busy machine its
            # threads wait for one another: 61 to 113 s instead of 8 to 17, measured on two cores.
            torch.set_num_threads(1)
        # Keras loads TensorFlow wherever it finds it, on any backend, in the middle of our lines.
        if importlib.util.find_spec("tensorflow"):
            import tensorflow as tf  # noqa: F401
        import keras
    return keras


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep back what is written to standard error, by C++ too; show it if this fails."""
    sys.stderr.flush()
    kept, failed = os.dup(2), True
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                said.seek(0)
                shutil.copyfileobj(said, sys.stderr.buffer)


# Training


def build(shape: Sequence[int], n_classes: int) -> Any:
    """Build the CNN: Conv, Pool, Conv, Pool, Flatten, Dropout, Dense."""
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(tuple(shape)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(n_classes, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(images: Images, out: Path, epochs: int) -> Trained:
    """Train with the callbacks of a serious run; the files go to `out`."""
    from peakhold.keras import production_callbacks

    model = build(images.train[0].shape[1:], images.train[1].shape[1])
    with Receiver() as receiver:
        callbacks = production_callbacks(
            out, MONITOR, patience=PATIENCE, alert=receiver.url, verbose=1
        )
        _, stopper, saver, board, log, alert, _, backup = callbacks
        try:
            model.fit(
                *images.train,
                validation_data=images.validation,
                batch_size=BATCH_SIZE,
                epochs=epochs,
                verbose=2,
                callbacks=callbacks,
            )
        finally:
            alert.flush(5)  # the receiver ends here, other than Slack
    return Trained(
        model,
        stopper,
        saver,
        Path(board.log_dir),
        Path(log.filename),
        Path(backup.backup_dir),
        epochs,
        receiver.messages,
    )


# Checking


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of the CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(model: Any, part: tuple[Any, Any]) -> dict[str, float]:
    """Loss and accuracy of a model on images and labels."""
    result: dict[str, float] = model.evaluate(
        *part, batch_size=BATCH_SIZE, verbose=0, return_dict=True
    )
    return result


def check_log(rows: Sequence[dict[str, str]], run: Trained) -> list[Claim]:
    """What the CSV file must say, by itself."""
    epochs, cells = [row["epoch"] for row in rows], [cell for row in rows for cell in row.values()]
    rates = [float(row["learning_rate"]) for row in rows]
    return [
        Claim(
            f"the log holds each of the {len(rows)} epochs once, with every metric",
            bool(rows) and epochs == [str(i) for i in range(len(rows))] and "NA" not in cells,
            f"{run.log} holds the epochs {', '.join(epochs) or 'none'}, or cells without a value",
        ),
        Claim(
            f"the learning rate was lowered from {rates[0]:.2g} to {rates[-1]:.2g}",
            rates[-1] < rates[0],
            f"the learning rate was {rates[-1]:.2g} from the first epoch to the last",
        ),
        Claim(
            f"training stopped by itself after epoch {len(rows)} of {run.epochs}",
            len(rows) < run.epochs and run.stopper.stopped_epoch == len(rows) - 1,
            f"training ran all {run.epochs} epochs: {MONITOR} kept improving; pass more --epochs",
        ),
    ]


def check_best(rows: Sequence[dict[str, str]], run: Trained, images: Images) -> list[Claim]:
    """The model, the file and the log must tell of one and the same epoch."""
    import keras

    if run.saver.best_path is None:
        return [Claim("a file was saved", holds=False, otherwise="no file was saved")]
    values = [float(row[MONITOR]) for row in rows]
    best = max(range(len(rows)), key=values.__getitem__)
    losses = [float(row["val_loss"]) for row in rows]
    again = measure(run.model, images.validation)
    loaded = keras.models.load_model(run.saver.best_path)
    pairs = list(zip(loaded.get_weights(), run.model.get_weights(), strict=True))
    tests = [measure(model, images.test)["accuracy"] for model in (loaded, run.model)]
    return [
        Claim(
            f"stopping and file both hold epoch {best + 1}, the best in the log",
            run.stopper.best_epoch == run.saver.best_epoch == best,
            f"the log's best is epoch {best + 1}, stopping's {run.stopper.best_epoch + 1}, the "
            f"file's {run.saver.best_epoch + 1}",
        ),
        Claim(
            f"the model in memory is that epoch's: val_loss {losses[best]:.5f}, where the last "
            f"epoch ended with {losses[-1]:.5f}",
            math.isclose(again["loss"], losses[best], rel_tol=1e-4)
            and math.isclose(again["accuracy"], values[best], rel_tol=1e-4),
            f"the model in memory has val_loss {again['loss']:.5f} and {MONITOR} "
            f"{again['accuracy']:.5f}, the log says {losses[best]:.5f} and {values[best]:.5f}",
        ),
        Claim(
            "the file, loaded, has the same weights as the model, bit for bit",
            bool(pairs) and all(np.array_equal(one, other) for one, other in pairs),
            "the loaded file and the model in memory have different weights",
        ),
        Claim(
            f"both have test accuracy {tests[0]:.4f}",
            tests[0] == tests[1],
            f"the loaded file has test accuracy {tests[0]:.4f}, the model {tests[1]:.4f}",
        ),
    ]


def check_production(rows: Sequence[dict[str, str]], run: Trained) -> list[Claim]:
    """TensorBoard's files, the alert and the backup."""
    from peakhold.tensorboard import left_by

    left = left_by(str(run.board / "validation"))
    steps = [event.step for event in left.events if event.tag == "epoch_accuracy"]
    told = run.messages[-1] if run.messages else "nothing"
    ended = f"training ended after epoch {len(rows)} of {run.epochs}: "
    best = f"best {MONITOR} {run.stopper.best:.6g} at epoch {run.stopper.best_epoch + 1}"
    return [
        Claim(
            f"TensorBoard shows one value for each of the {len(rows)} epochs",
            steps == list(range(len(rows))) and not left.unfinished,
            f"{run.board} holds {MONITOR} of the epochs {steps}, or was not closed",
        ),
        Claim(
            "the alert said on loopback, where Slack would be, how training ended",
            ended in told and best in told,
            f"the alert's last message was {told!r}",
        ),
        Claim(
            "the backup was deleted, for this run ended well",
            not run.backup.exists(),
            f"{run.backup} is still there",
        ),
    ]


def check_kill(out: Path) -> list[Claim]:
    """A loop of one's own that dies in the middle, where PyTorch is installed."""
    shown = show_a_kill(out)
    if shown is None:
        print("\nNo PyTorch here: the loop that is killed and goes on is left out.")
        return []
    return [Claim(*shown)]


# Words


def report(claims: Sequence[Claim]) -> bool:
    """Print what was checked; True if all of it holds."""
    print("\nChecked:")
    for claim in claims:
        if claim.holds:
            print(f"  ok      {claim.text}")
        else:
            print(f"  FAILED  {claim.otherwise}")
    failed = [claim for claim in claims if not claim.holds]
    if failed:
        print(f"peakhold.demo: {failed[0].otherwise}.", file=sys.stderr)
    return not failed


def what_next(run: Trained) -> str:
    """Where the files are, and what to try."""
    best = str(run.saver.best_path)
    files = [
        (best, "the best epoch, for keras.models.load_model"),
        (f"{best}.peakhold.json", "its checksum, epoch and metrics"),
        (str(run.log), "one row for each epoch"),
        (str(run.board), "what TensorBoard shows"),
    ]
    width = max(len(path) for path, _ in files)
    listed = "\n".join(f"  {path:<{width}}  {text}" for path, text in files)
    told = run.messages[-1].replace("\n", "\n  ")
    return f"""
The alert said, to a receiver of this program:
  {told}

Files:
{listed}

Next:
  tensorboard --logdir {run.board}
  Run it again: the next run's files lie in a folder of their own.
  Press Ctrl-C or kill it in the middle, and run it again: it goes on under the same names, and ends
  as if nothing had happened.
  In a script of your own, all of this is one line:
  callbacks=peakhold.keras.production_callbacks("runs/mine", "val_accuracy", alert=webhook)
  A loop of your own: with peakhold.Run("runs/mine", model=model, optimizer=optimizer) as run: …
"""


def count(text: str) -> int:
    """Read a number of epochs or images from the command line."""
    if not text.isdecimal() or int(text) < 1:
        message = f"expected a number of at least 1, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m peakhold.demo",
        description="Train a small CNN with Peakhold's callbacks and check what they claim.",
        epilog="KERAS_BACKEND=tensorflow|jax|torch chooses the backend.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--dataset",
        choices=("digits", "mnist", "fashion-mnist"),
        default="digits",
        help="digits come with scikit-learn; the others are downloaded (default: %(default)s)",
    )
    source.add_argument(
        "--data", type=Path, metavar="FILE.npz", help="x_train, y_train, x_test, y_test"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("peakhold-demo"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=count, default=100, help="at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--limit",
        type=count,
        default=MAX_TRAINING_IMAGES,
        help="most images to train and validate on (default: %(default)s)",
    )
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> bool:
    """Train, check, tell; True if every claim holds."""
    backend = choose_backend()
    keras = import_keras(backend)
    keras.utils.set_random_seed(options.seed)
    images = load(options.dataset, options.data, options.limit, options.seed)
    print(f"Peakhold demo on {images.describe()}; Keras {keras.__version__} on {backend}.\n")
    trained = train(images, options.out, options.epochs)
    rows = read_log(trained.log)
    holds = report(
        check_log(rows, trained)
        + check_best(rows, trained, images)
        + check_production(rows, trained)
        + check_kill(options.out)
    )
    if holds:
        print(what_next(trained), end="")
    return holds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    try:
        return 0 if run(arguments(argv)) else 1
    except (DemoError, PeakholdError) as error:
        print(f"peakhold.demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("peakhold.demo: Ctrl-C.", file=sys.stderr)
        return INTERRUPTED
