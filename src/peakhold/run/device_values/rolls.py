"""What each framework's module has: a roll of numbers on a device."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeAlias

__all__ = ["BLOCK", "Roll", "Sealed", "TapeEntry"]

BLOCK: Final = 256
"""So many numbers of a metric become a block."""


class Sealed(Protocol):
    """Numbers that a roll had when a block was full; nobody writes there any more."""

    def is_ready(self) -> bool:
        """Whether `numbers` would not wait for the device. Where it cannot be known: no."""

    def numbers(self) -> list[float]:
        """The numbers, in order; waits for the device."""


class Roll(Protocol):
    """Numbers of one dtype, on one device, at most `BLOCK` between two seals."""

    def take(self, value: Any) -> TapeEntry | None:
        """Copy a number; does not wait.

        Returns:
            The roll, in which it is now the last; or the number, if it was there to be read; or
            None: it is of another dtype, or elsewhere.

        Raises:
            NotOneNumberError: If it is not one number.
        """

    def seal(self) -> Sealed:
        """What has been taken since the last seal; does not wait."""


TapeEntry: TypeAlias = float | Roll
