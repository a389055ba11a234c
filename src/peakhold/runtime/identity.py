"""Which run this is."""

from __future__ import annotations

import os
import time
from typing import final

__all__ = ["Identity"]


@final
class Identity:
    """A run's name: its own until it turns out to be another process's, resumed."""

    def __init__(self) -> None:
        self.run_id = os.urandom(4).hex()
        """Eight hexadecimal digits."""
        self.timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        """When it began, UTC."""
        self._rank: int | None = None

    def take_over(self, run_id: str, timestamp: str) -> None:
        """This run goes on from that one, and keeps its name."""
        self.run_id, self.timestamp = run_id, timestamp

    @property
    def rank(self) -> int:
        """This worker's number among its fellows, as the environment has it."""
        if self._rank is not None:
            return self._rank
        rank = os.environ.get("RANK", "0")
        return int(rank) if rank.isdigit() else 0

    @rank.setter
    def rank(self, rank: int | None) -> None:
        self._rank = rank
