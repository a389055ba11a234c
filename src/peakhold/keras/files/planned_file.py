"""Which copies of the host's parts stand for which variables of a planned file.

A file plan asks for the values of variables; a snapshot has parts. A variable that is in no part (a
quantized layer's, a user's own) is copied when the file is planned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, final

import numpy as np

import keras
from peakhold.keras.files.plan import FilePlan

__all__ = ["LeafPlace", "PlannedKerasFile", "places_of"]

LeafPlace = tuple[str, int | str]
"""Name of a part, and where in its list or dict."""


def places_of(
    lists: Mapping[str, Sequence[Any]], dicts: Mapping[str, Sequence[Any]]
) -> dict[int, LeafPlace]:
    """Where the copy of each variable is, by the variable's id.

    Args:
        lists: Variables of each part whose snapshot is a list of arrays.
        dicts: The same for parts whose snapshot is a dict of arrays by path.
    """
    places: dict[int, LeafPlace] = {}
    for part, variables in dicts.items():
        counts = Counter(variable.path for variable in variables)
        # Of two variables with one path, only one is in the dict: neither is taken from it.
        places |= {id(v): (part, v.path) for v in variables if counts[v.path] == 1}
    for part, variables in lists.items():
        places |= {id(variable): (part, i) for i, variable in enumerate(variables)}
    return places


@final
class PlannedKerasFile:
    """A `PlannedFile`: see `peakhold.host.contract`.

    Args:
        plan: What will stand in the file.
        places: As `places_of` returns them.
    """

    def __init__(self, plan: FilePlan, places: Mapping[int, LeafPlace]) -> None:
        self._plan = plan
        self._sources: list[LeafPlace | np.ndarray] = [
            place
            if (place := places.get(id(variable))) is not None
            else np.array(keras.ops.convert_to_numpy(variable))
            for variable in plan.variables
        ]
        copied = [source for source in self._sources if isinstance(source, np.ndarray)]
        self.parts = tuple(dict.fromkeys(s[0] for s in self._sources if isinstance(s, tuple)))
        self.extra_bytes = plan.extra_bytes + sum(array.nbytes for array in copied)

    def write(self, file: BinaryIO, held: Mapping[str, Any]) -> None:
        """Write the file; on any thread."""
        self._plan.write(
            file,
            [
                held[source[0]][source[1]] if isinstance(source, tuple) else source
                for source in self._sources
            ],
        )
