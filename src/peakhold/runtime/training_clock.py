"""What a patience in steps or seconds is measured with: time and steps spent in training."""

from __future__ import annotations

from typing import final

from peakhold._core.patience import Patience, Seconds, Steps
from peakhold.errors import HostError
from peakhold.runtime.session import Session

__all__ = ["TrainingClock"]


@final
class TrainingClock:
    """Measures from one epoch's end to the next, in the unit of a patience.

    It starts anew with each run, so that the time between two runs is nobody's.
    """

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._steps: tuple[int | None, ...] | None = None
        self._counts = False

    def start(self, session: Session, patience: Patience) -> None:
        """The first epoch begins."""
        if isinstance(patience, Seconds):
            self._seconds = session.seconds()
        elif isinstance(patience, Steps):
            self._steps = session.steps()

    def lap(self, session: Session, patience: Patience, callback: str) -> float:
        """Seconds or steps since the lap before; 0 for a patience in epochs.

        Raises:
            HostError: If nothing counts steps.
        """
        if isinstance(patience, Seconds):
            before, self._seconds = self._seconds, session.seconds()
            return 0.0 if before is None else self._seconds - before
        if isinstance(patience, Steps):
            return self._lap_steps(session, patience, callback)
        return 0.0

    def _lap_steps(self, session: Session, patience: Steps, callback: str) -> float:
        earlier, self._steps = self._steps, session.steps()
        if earlier is None:
            return 0.0
        moved = [
            now - before
            for before, now in zip(earlier, self._steps, strict=True)
            if before is not None and now is not None
        ]
        steps = next((count for count in moved if count > 0), 0)
        if not steps and not self._counts:
            raise HostError.lacks(
                f"{callback}(patience={patience!r})",
                "something that counts steps",
                session.host.describe(),
                hint="call on_train_batch_end of CallbackList, or pass steps= to it.",
            )
        self._counts = True
        return float(steps)
