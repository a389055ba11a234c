"""What a row of the table of loaders says; no framework is imported for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Kind:
    """A loader."""

    name: str
    make: Callable[[], object]
    replay: bool = False
    augmented: bool = True
    """Whether what is drawn for each row, by the data set, is exact."""
    loads: bool = False
    """Whether the first batches are loaded again."""
    sets_epochs: bool = False
    """Whether it is told of epochs, which a loop without us would have to do."""
