"""A webhook's URL is a password: whoever has it can write into the channel.

Rules of this file:

1. The text leaves a `Secret` only through `reveal()`, which only senders call.
2. It shows nothing in `repr`, in formats and in tracebacks with local variables.
3. It does not travel: a pickle holds an empty one. A copy inside the process is the same object.
"""

from __future__ import annotations

import os
import re
from typing import Any, final

__all__ = ["Secret"]

MASK = "***"


@final
class Secret:
    """A text that is not shown.

    Args:
        text: The text, usually a URL; or another secret, for a copy.

    Example:
        >>> secret = Secret("https://hooks.example.com/services/T01/B02/x9Yz")
        >>> secret, f"{secret}", bool(secret)
        (***, '***', True)
        >>> secret.mask("POST /services/T01/B02/x9Yz failed")
        'POST /services/***/***/*** failed'
        >>> import copy, pickle
        >>> bool(copy.deepcopy(secret)), bool(pickle.loads(pickle.dumps(secret)))
        (True, False)
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | Secret = "") -> None:
        self._text = text.reveal() if isinstance(text, Secret) else text

    @classmethod
    def from_environment(cls, name: str) -> Secret:
        """The value of an environment variable; an empty secret if it is not set."""
        return cls(os.environ.get(name, "").strip())

    def reveal(self) -> str:
        """The text itself: for the sender, and for nobody else."""
        return self._text

    def mask(self, text: str) -> str:
        """The text without anything that looks like a part of the secret."""
        if not self._text:
            return text
        from urllib.parse import unquote

        pieces = [self._text, *re.split(r"[/?#&=:@,;]+", self._text)]
        pieces += [unquote(piece) for piece in pieces]
        # Words such as `https` are no secret; whatever is long or has a digit or capital may be.
        telling = {
            p for p in pieces if len(p) > 2 and (len(p) > 15 or not p.isalpha() or not p.islower())
        }
        for piece in sorted(telling, key=len, reverse=True):
            text = text.replace(piece, MASK)
        return text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> tuple[Any, ...]:
        return Secret, ()

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self
