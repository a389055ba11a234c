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

from peakhold.errors import PeakholdError

__all__ = ["main"]

BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
MONITOR = "val_accuracy"
BATCH_SIZE = 64
PATIENCE = 10  # epochs that stopping sits out
PLATEAU_PATIENCE = 4  # less than half of it: the lower rate gets its chance before the end
MAX_TRAINING_IMAGES = 4000  # of larger data sets: about a minute on two slow cores
INTERRUPTED = 130  # what shells say for a program that Ctrl-C ended


class DemoError(Exception):
    """The demo cannot begin, and why."""


@final
@dataclass(frozen=True, slots=True)
class Images:
    """Three parts of one data set: images `(n, height, width, 1)` in 0…1, labels one-hot."""

    name: str
    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]

    def describe(self) -> str:
        """The data set in one line."""
        height, width = self.train[0].shape[1:3]
        train, validation, test = (
            f"{len(part[0]):,}" for part in (self.train, self.validation, self.test)
        )
        return (
            f"{self.name}: images of {height}x{width}, {train} to train on, {validation} to "
            f"validate, {test} to test"
        )


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What is left of a training run."""

    model: Any
    stopper: Any
    saver: Any
    log: Path
    epochs: int
    """Epochs asked for."""


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


# Data


def digits() -> tuple[Any, Any, Any, Any]:
    """The 1,797 handwritten digits that come with scikit-learn, 8x8.

    Raises:
        DemoError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DemoError(
            "expected scikit-learn, whose digits are the data, to be installed.\n"
            "Hint: pip install 'peakhold[demo]'."
        ) from error
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x.reshape(-1, 8, 8)[order], y[order]
    n_train = len(x) * 4 // 5
    return x[:n_train], y[:n_train], x[n_train:], y[n_train:]


def downloaded(name: str) -> tuple[Any, Any, Any, Any]:
    """MNIST or Fashion-MNIST by Keras's own loader, which downloads it once.

    Raises:
        DemoError: If the download fails.
    """
    import keras

    loader = {"mnist": keras.datasets.mnist, "fashion-mnist": keras.datasets.fashion_mnist}[name]
    try:
        (x, y), (x_test, y_test) = loader.load_data()
    except Exception as error:  # Keras wraps what the network said in a bare Exception
        raise DemoError(
            f"expected to download {name}: {error}\n"
            "Hint: --data FILE.npz reads a file that holds x_train, y_train, x_test and y_test; "
            "without options the demo needs no network."
        ) from error
    return x, y, x_test, y_test


def from_file(path: Path) -> tuple[Any, Any, Any, Any]:
    """Images from a NumPy archive with `x_train`, `y_train`, `x_test` and `y_test`.

    Raises:
        DemoError: If it cannot be read, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            x, y, x_test, y_test = (
                archive[key] for key in ("x_train", "y_train", "x_test", "y_test")
            )
    except (OSError, KeyError, ValueError) as error:
        raise DemoError(
            f"expected an .npz with x_train, y_train, x_test and y_test, got {str(path)!r}: {error}"
        ) from error
    smallest = 8  # two poolings leave 2x2
    if x.ndim != x_test.ndim or x.ndim not in {3, 4} or min(x.shape[1:3]) < smallest:
        raise DemoError(
            f"expected grey images of at least 8x8 in x_train and x_test, got shapes {x.shape} and "
            f"{x_test.shape} in {str(path)!r}."
        )
    return x, y, x_test, y_test


def load(dataset: str, data: Path | None, limit: int, seed: int) -> Images:
    """Read a data set, scale it, and keep a fifth of the training images for validation.

    Args:
        dataset: `digits`, `mnist` or `fashion-mnist`.
        data: A file to read instead.
        limit: Most images to train and validate on.
        seed: Which of them.
    """
    if data is not None:
        name, parts = data.name, from_file(data)
    else:
        name, parts = dataset, digits() if dataset == "digits" else downloaded(dataset)
    x, y, x_test, y_test = parts
    chosen = np.random.default_rng(seed).permutation(len(x))[:limit]
    scale, n_classes = float(x.max()), int(max(y.max(), y_test.max())) + 1

    def prepared(images: Any, labels: Any) -> tuple[Any, Any]:
        images = images.reshape((*images.shape[:3], -1)).astype("float32") / scale
        return images, np.eye(n_classes, dtype="float32")[labels.astype(int).ravel()]

    split = len(chosen) * 4 // 5
    return Images(
        name,
        train=prepared(x[chosen[:split]], y[chosen[:split]]),
        validation=prepared(x[chosen[split:]], y[chosen[split:]]),
        test=prepared(x_test, y_test),
    )


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
    """Train with the four callbacks of almost every script; the files go to `out`."""
    from peakhold.keras import CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

    model = build(images.train[0].shape[1:], images.train[1].shape[1])
    stopper = EarlyStopping(MONITOR, patience=PATIENCE, restore_best_weights=True, verbose=1)
    saver = ModelCheckpoint(out / "best.keras", monitor=MONITOR, save_best_only=True)
    log = out / "log.csv"
    model.fit(
        *images.train,
        validation_data=images.validation,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=2,
        callbacks=[
            ReduceLROnPlateau(MONITOR, factor=0.3, patience=PLATEAU_PATIENCE, verbose=1),
            stopper,
            saver,
            CSVLogger(log),
        ],
    )
    return Trained(model, stopper, saver, log, epochs)


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


def what_next(out: Path) -> str:
    """Where the files are, and what to try."""
    files = [
        (out / "best.keras", "the best epoch, for keras.models.load_model"),
        (out / "best.keras.peakhold.json", "its checksum, epoch and metrics"),
        (out / "log.csv", "one row for each epoch"),
    ]
    if (out / "best.previous.keras").exists():
        files.insert(1, (out / "best.previous.keras", "the best of the earlier runs"))
    width = max(len(str(path)) for path, _ in files)
    listed = "\n".join(f"  {path!s:<{width}}  {text}" for path, text in files)
    return f"""
Files:
{listed}

Next:
  Run it again: the new run starts afresh, and what is in best.keras now is kept as
  best.previous.keras (of several earlier runs, the better one).
  Press Ctrl-C in the middle: the best epoch so far is restored, and its file is whole.
  In a script of your own, swap one line:
  from peakhold.keras import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, CSVLogger
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
    holds = report(check_log(rows, trained) + check_best(rows, trained, images))
    if holds:
        print(what_next(options.out), end="")
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


if __name__ == "__main__":
    sys.exit(main())
