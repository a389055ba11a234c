"""Workers of one JAX program: keys in its coordination service.

Rules of this file:

1. No collective: one of ours between the program's own would mix with them, and hangs where one
   process is missing, which is what is to be found out.
2. `jax._src.distributed.global_state` is private; it stands here and nowhere else, and a test says
   that it is there. What is public (`multihost_utils.process_allgather`) is a collective, waits
   without a limit and can name nobody: there is no falling back on it.
3. One client is enough: it waits without a lock of Python's or its own, so another thread's calls
   go on meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final, final

__all__ = ["JaxChannel", "jax_channel", "jax_group"]

_NOT_THERE: Final = ("NOT_FOUND", "DEADLINE_EXCEEDED")
_NOT_LOST: Final = ("ALREADY_EXISTS", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
"""A call that was wrong; whatever else the service answers, it is not there as it was."""


def jax_group() -> Any:
    """The client of a `jax.distributed` of several processes; None if there is none."""
    state = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)
    return state.client if state is not None and (state.num_processes or 1) > 1 else None


def jax_channel(client: Any) -> JaxChannel:
    """The channel of the processes of this client."""
    state = sys.modules["jax._src.distributed"].global_state
    return JaxChannel(client, state.process_id, state.num_processes)


@final
class JaxChannel:
    """Keys in JAX's coordination service.

    Args:
        client: Of the service.
        rank: This process's number.
        size: How many there are.
    """

    attempt = "0"
    """The service begins with the program, and without a key of an earlier one's."""

    def __init__(self, client: Any, rank: int, size: int) -> None:
        self._client, self.rank, self.size = client, rank, size

    def set(self, key: str, value: bytes) -> None:
        """Let all see a value."""
        self._call("key_value_set_bytes", key, value)

    def replace(self, key: str, value: bytes) -> None:
        """As `set`, for a key that was written before."""
        self._call("key_value_set_bytes", key, value, True)

    def get(self, key: str, seconds: float) -> bytes | None:
        """A value, if it is there in time."""
        if seconds <= 0:
            return self._found("key_value_try_get_bytes", key)
        return self._found("blocking_key_value_get_bytes", key, max(int(seconds * 1000), 1))

    def delete(self, keys: Iterable[str]) -> None:
        """Forget keys, and what is below them."""
        for key in keys:
            self._call("key_value_delete", key)

    def another(self) -> JaxChannel:
        """The same client: it may be called in several threads."""
        return JaxChannel(self._client, self.rank, self.size)

    def close(self) -> None:
        """The client is the program's."""
        self._client = None

    def _found(self, method: str, *args: Any) -> bytes | None:
        try:
            found: bytes = self._call(method, *args)
        except LookupError:
            return None
        return found

    def _call(self, method: str, *args: Any) -> Any:
        """What it returns; the service's own errors as Python's."""
        if self._client is None:
            raise ConnectionError("this connection was closed")
        try:
            return getattr(self._client, method)(*args)
        except RuntimeError as error:  # JaxRuntimeError; the status is the first word
            text = str(error).splitlines()[0] if str(error) else repr(error)
            if text.startswith(_NOT_THERE):
                raise LookupError(text) from error
            if text.startswith(_NOT_LOST):
                raise
            raise ConnectionError(text) from error
