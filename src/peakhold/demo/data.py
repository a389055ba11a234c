"""The data of the demo: digits that come with scikit-learn, MNIST, or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

__all__ = ["DemoError", "Images", "load"]


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
