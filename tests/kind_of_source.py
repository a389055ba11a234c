"""What a row of the table of loaders says, and what is loaded; no framework is imported for it."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable

LOADED = multiprocessing.Value("l", 0)
"""How many rows were loaded, in this process and in workers that it forks."""


def loaded():
    """Told by a data set, for each row."""
    with LOADED.get_lock():
        LOADED.value += 1


@dataclasses.dataclass(frozen=True)
class Kind:
    """A loader."""

    name: str
    make: Callable[[], object]
    replay: bool = False
    augmented: bool = True
    """Whether what is drawn for each row, by the data set, is exact."""
    loads: bool = False
    """Whether the first batches are loaded again; measured where the data set counts."""
    sets_epochs: bool = False
    """Whether it is told of epochs, which a loop without us would have to do."""
