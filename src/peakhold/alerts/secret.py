"""A webhook's URL is a password: whoever has it can write into the channel.

Rules of this file:

1. The text leaves a `Secret` only through `reveal()`, which only senders call.
2. It shows nothing in `repr`, in formats and in tracebacks with local variables.
3. It does not travel: a pickle holds an empty one. A copy inside the process is the same object.
4. What is masked in somebody else's text is masked because it is a part of the secret, not because
   it looks like one: a password may be a plain word. So a word of the text that is also one of the
   address is lost with it; but for scheme and host of a web address, and options that are none.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, final

__all__ = ["MASK", "Secret", "pieces_of"]

MASK = "***"

_WEB = frozenset({"http", "https"})
_BETWEEN = re.compile(r"[/?#&=:@,;\s]+")
_OPTIONS = frozenset(
    {"format", "verify", "overflow", "rto", "cto", "mode", "batch", "image", "footer"}
)
"""Of Apprise's URLs: their values are `yes`, `no`, `text` and the like."""
_LONG = 5
"""Letters of a piece that is masked within a word, too."""


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
        'POST /*** failed'
        >>> Secret("mailto://me:hunterpass@example.com").mask("login of me with Hunterpass failed")
        'login of *** with *** failed'
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
        """The text without any part of the secret, in any of the forms that a URL's parts take."""
        if not self._text:
            return text
        for piece in sorted(pieces_of(self._text), key=len, reverse=True):
            # Within a word only what is too long to be there by chance.
            alone = len(piece) <= _LONG
            before, after = (r"(?<![^\W_])", r"(?![^\W_])") if alone else ("", "")
            text = re.sub(before + re.escape(piece) + after, MASK, text, flags=re.IGNORECASE)
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


def pieces_of(address: str) -> set[str]:
    """The address, its parts, and the forms in which they may stand in a text."""
    from base64 import b64encode
    from urllib.parse import quote, unquote

    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = "", address
    before, mark, tail = rest.partition("?")
    netloc, slash, path = before.partition("/")
    user, at, host = netloc.rpartition("@")
    # A host is no secret where it is one; elsewhere (`tgram://token/…`) the token has its place.
    is_host = scheme.lower() in _WEB and re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", host)
    public = host if is_host else ""
    secret = f"{user}{at}{'' if public else host}{slash}{path}"
    pieces = [address, rest, user, path, tail, *re.split(_BETWEEN, secret)]
    for option in re.split("[&;#]", tail if mark else ""):
        name, _, value = option.partition("=")
        if name.lower() not in _OPTIONS:
            pieces += [value or name, *re.split(_BETWEEN, value)]
    plain = [unquote(piece) for piece in pieces]
    encoded = [b64encode(piece.encode()).decode() for piece in (user, unquote(user)) if piece]
    quoted = [quote(piece, safe="") for piece in plain] + [json.dumps(one)[1:-1] for one in plain]
    return {one for one in (*pieces, *plain, *encoded, *quoted) if one and one != public}
