"""Callbacks that compare a metric, with the names under which Keras's do: people override those.

Rules of this file:

1. What a method here says is what is said without it; a subclass that overrides one is asked in its
   stead (`watching.py`), and nothing here is called by ours.
"""

from __future__ import annotations

from typing import Any

from peakhold.runtime.callback import asked
from peakhold.runtime.participating import Participating
from peakhold.runtime.watching import Comparison, Watching

__all__ = ["Comparing"]


class Comparing(Participating):
    """A callback that ranks epochs by a metric, by the rules of a user's subclass if it has any."""

    _peakhold_asks: tuple[str, ...] = ("_is_improvement", "_set_monitor_op")

    monitor_op = Comparison()

    @property
    def _peakhold_watching(self) -> Watching[Any]:
        participant: Any = self._peakhold_link.participant
        return participant  # type: ignore[no-any-return]

    @asked
    def _set_monitor_op(self) -> None:
        """Find which way is better, by `mode`, the metric or its name.

        Raises:
            DirectionUnknownError: If nothing tells.
        """
        watching = self._peakhold_watching
        for watch in watching.watches:
            watching.find_direction(watch)

    @asked
    def _is_improvement(self, monitor_value: Any, reference_value: Any) -> bool:
        """Whether a value beats another, by `mode` and `min_delta`; anything beats None.

        Args:
            monitor_value: The value.
            reference_value: What it must beat: the best so far, the baseline, or None.
        """
        return self._peakhold_watching.improves(monitor_value, reference_value)
