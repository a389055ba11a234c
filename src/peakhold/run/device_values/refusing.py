"""What is logged and is no number."""

from __future__ import annotations

__all__ = ["NotOneNumberError"]

_MEAN = "log one number: its mean, or each element under a name of its own."
_OUTSIDE = "return it from the compiled function, and log what the call returns."


class NotOneNumberError(TypeError):
    """A value that is not one number; `hint` says what to log instead."""

    def __init__(self, hint: str = _MEAN) -> None:
        self.hint = hint
        super().__init__("it is not one number")

    @classmethod
    def symbolic(cls) -> NotOneNumberError:
        """For a value of a function that is being compiled: it has no number yet."""
        return cls(_OUTSIDE)
