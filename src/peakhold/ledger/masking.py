"""What must not get into a file: passwords in addresses, tokens, what the environment calls secret.

Rules of this file:

1. What is masked is known to be a secret (the environment, the name of an option), or has the form
   of one (an address with a password, a token of a service that marks its tokens).
2. Where a whole text is not to be trusted, more is lost than must be: of an address nothing but its
   scheme and host remains where a webhook or a password is likely.
3. To look whether a line holds any costs next to nothing: each line of a record is looked at.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

from peakhold.alerts.secret import MASK, Secret, pieces_of
from peakhold.trees import fold

__all__ = ["Masking"]

_SHORTEST: Final = 8
"""Letters of a value of the environment that is taken for a secret; `1` and `true` are none."""
_SECRET_NAME: Final = re.compile(
    r"(?:^|[_\-.])(?:api_?|access_?|private_?|secret_?|auth_?)*"
    r"(?:key|token|secret|secrets|password|passwd|passphrase|pass|pwd|pw|auth|authorization|"
    r"credential|credentials|webhook|webhooks|webhook[_\-]?url|apikey|bearer|cookie)$",
    re.IGNORECASE,
)
_NO_SECRETS: Final = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK", "GPG_KEY"})
_ALERTS: Final = frozenset({"PEAKHOLD_SLACK_WEBHOOK", "PEAKHOLD_ALERT_URL"})
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^\s\"'<>]+)")
_PLACES: Final = frozenset(
    {"http", "https", "ftp", "file", "gs", "s3", "s3a", "r2", "az", "abfs", "abfss", "wasbs", "adl",
     "hf", "hdfs", "oci", "ssh", "git", "git+https", "git+ssh", "tcp", "udp", "grpc", "unix",
     "ray", "wandb", "mlflow", "sqlite", "mysql", "postgresql", "redis", "env"}
)  # fmt: skip
"""Schemes whose host and path are no secrets; in others the token has its place (`tgram://…`)."""
_HOOKS: Final = re.compile(r"hooks?[./-]|webhook|/services/|/api/hooks|workflows/", re.IGNORECASE)
_TOKEN_MARKS: Final = (
    "hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox",
    "xapp-", "glpat-", "AKIA", "ASIA", "AIza", "eyJ", "ya29.", "npm_",
    "pypi-", "dop_v1_", "Bearer ", "bearer ", "Basic ", "basic ",
)  # fmt: skip
_TOKEN: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_\-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|"
    r"github_pat_[A-Za-z0-9_]{16,}|xox[abprs]-[A-Za-z0-9\-]{8,}|xapp-[A-Za-z0-9\-]{8,}|"
    r"glpat-[A-Za-z0-9_\-]{12,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[A-Za-z0-9_\-]{20,}|"
    r"eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-.]{8,}|ya29\.[A-Za-z0-9_\-]{16,}|npm_[A-Za-z0-9]{16,}|"
    r"pypi-[A-Za-z0-9_\-]{16,}|dop_v1_[a-f0-9]{16,}|(?:[Bb]earer|[Bb]asic) [A-Za-z0-9_\-.=+/]{8,})"
)


@final
class Masking:
    """What is known to be secret in this process.

    Args:
        secrets: Texts that are.

    Example:
        >>> masking = Masking(["correct horse"])
        >>> masking.of_text("login with correct horse failed")
        'login with *** failed'
        >>> masking.of_text("GET https://me:pw@example.com/a?user=me&sig=x9 failed")
        'GET https://***@example.com/a?*** failed'
        >>> masking.of_command(["train.py", "--lr", "0.1", "--api-key=abc", "--token", "xyz"])
        ['train.py', '--lr', '0.1', '--api-key=***', '--token', '***']
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        given = [text for text in secrets if text]
        self._addresses = [Secret(text) for text in given if "://" in text]
        self._values = [Secret(text) for text in given if "://" not in text]
        pieces = [piece for one in self._addresses for piece in pieces_of(one.reveal())]
        shown = [json.dumps(value.reveal())[1:-1] for value in self._values]
        marks = ["://", *_TOKEN_MARKS, *shown, *(one for one in pieces if len(one) >= _SHORTEST)]
        found = [re.escape(mark.encode("ascii", "backslashreplace")) for mark in marks]
        self._marks = re.compile(b"|".join(dict.fromkeys(found)))

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str] | None = None) -> Masking:
        """With what its environment calls secret.

        Args:
            environment: Defaults to `os.environ`.
        """
        given = os.environ if environment is None else environment
        return cls(
            text.strip()
            for name, text in given.items()
            if len(text.strip()) >= _SHORTEST
            and not text.startswith(os.sep)  # a file that holds one
            and name not in _NO_SECRETS
            and (name in _ALERTS or _SECRET_NAME.search(name))
        )

    def may_concern(self, line: bytes) -> bool:
        """Whether something in a line looks like a secret; quick.

        Args:
            line: ASCII.
        """
        return self._marks.search(line) is not None

    def of_text(self, text: str) -> str:
        """A text without them.

        Args:
            text: For people.
        """
        for address in self._addresses:
            text = address.mask(text)
        for value in self._values:
            text = text.replace(value.reveal(), MASK)
        return _TOKEN.sub(MASK, _URL.sub(_address, text))

    def of_tree(self, tree: Any) -> Any:
        """The same for all texts in dicts and lists; keys stay, but what has a telling one goes.

        Args:
            tree: Plain JSON.
        """

        def leaf(value: Any, path: str) -> Any:
            if not isinstance(value, str) or not value:
                return value
            return MASK if is_secret_name(path.rpartition("\0")[2]) else self.of_text(value)

        def join(container: Any, keys: Sequence[Any], children: list[Any], _path: str) -> Any:
            if isinstance(container, Mapping):
                return dict(zip(keys, children, strict=True))
            return children

        return fold(tree, leaf, join, separator="\0")

    def of_command(self, words: Sequence[str]) -> list[str]:
        """A command line without them.

        Args:
            words: As in `sys.argv`.
        """
        masked: list[str] = []
        is_next = False
        for word in words:
            name, equals, value = word.partition("=")
            is_option = name.startswith("-") or (bool(equals) and "://" not in name)
            if is_next and not word.startswith("-"):
                masked.append(MASK)
                is_next = False
            elif is_option and is_secret_name(name):
                masked.append(f"{name}={MASK}" if equals else name)
                is_next = not equals
            elif equals and is_option:
                masked.append(f"{name}={self.of_text(value)}")
                is_next = False
            else:
                masked.append(self.of_text(word))
                is_next = False
        return masked


def is_secret_name(name: str) -> bool:
    """Whether what has such a name is a secret.

    Example:
        >>> [is_secret_name(name) for name in ("--api-key", "wandb_token", "monkey", "lr")]
        [True, True, False, False]
    """
    return _SECRET_NAME.search(name.lstrip("-")) is not None


def _address(match: re.Match[str]) -> str:
    scheme, rest = match["scheme"], match["rest"]
    if scheme.lower() not in _PLACES:
        return f"{scheme}://{MASK}"
    user, at, place = rest.rpartition("@")
    if at and "/" in user:  # the sign stands in the path
        user, at, place = "", "", rest
    place, query, _ = place.partition("?")
    host, slash, _ = place.partition("/")
    if _HOOKS.search(place):
        place = f"{host}/{MASK}" if slash else host
    return f"{scheme}://{f'{MASK}@' if at else ''}{place}{f'?{MASK}' if query else ''}"
