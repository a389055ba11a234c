"""The coordinator of a run with one worker: it answers at once."""

from __future__ import annotations

from typing import Any, final

__all__ = ["LocalCoordinator"]


@final
class LocalCoordinator:
    """One worker agrees with itself."""

    rank, size, attempt, border = 0, 1, "", None

    def meet(self, offer: Any) -> list[Any]:
        """It is alone."""
        return [offer]

    def gather(self, what: str, value: Any) -> list[Any]:
        """Its own value."""
        return [value]

    def agree(self, what: str, value: Any) -> Any:
        """Its own value."""
        return value

    def aggregate(self, what: str, report: Any) -> list[Any] | None:
        """Its own report."""
        return [report]

    def decide(self, what: str, answer: Any = None) -> Any:
        """Its own answer."""
        return answer

    def await_border(self, what: str) -> None:
        """There is none."""

    def lost(self) -> tuple[int, str] | None:
        """It is there."""
        return None

    def fail(self, error: BaseException) -> None:
        """Nobody to tell."""

    def close(self) -> None:
        """Nothing to let go."""
