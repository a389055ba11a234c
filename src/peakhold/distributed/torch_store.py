"""Workers of a `torch.distributed` group: keys in the group's own store.

Rules of this file:

1. Never the training group: a collective of ours between the user's would mix with them.
2. Connections of our own, one for each thread: a client that waits holds its lock.
3. `_get_default_store` is private; it stands here and nowhere else, and a test says that it is
   there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, final

__all__ = ["TorchChannel", "torch_channel"]

_AT_ONCE: Final = timedelta(milliseconds=1)


def _group() -> Any:
    """`torch.distributed`, if a group of several processes is there."""
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is None or not torch_distributed.is_available():
        return None
    if not torch_distributed.is_initialized() or torch_distributed.get_world_size() < 2:
        return None
    return torch_distributed


def torch_channel() -> TorchChannel | None:
    """The channel of the group that is there; None if there is none."""
    group = _group()
    if group is None:
        return None
    store = group.distributed_c10d._get_default_store()
    return TorchChannel(store.clone(), group.get_rank(), group.get_world_size())


@final
class TorchChannel:
    """Keys in a store of torch's.

    Args:
        store: A connection to it that nobody else uses.
        rank: This worker's number.
        size: How many there are.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self.rank, self.size = store, rank, size
        self.attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")

    def set(self, key: str, value: bytes) -> None:
        """Let all see a value."""
        self._call(self._store.set, key, value)

    def replace(self, key: str, value: bytes) -> None:
        """As `set`: keys may be written again."""
        self._call(self._store.set, key, value)

    def get(self, key: str, seconds: float) -> bytes | None:
        """A value, if it is there in time."""
        if not self._call(self._store.check, [key]):
            if not seconds:
                return None
            try:
                self._call(self._store.wait, [key], max(timedelta(seconds=seconds), _AT_ONCE))
            except TimeoutError:
                return None
        value: bytes = self._call(self._store.get, key)
        return value

    def delete(self, keys: Iterable[str]) -> None:
        """Forget keys."""
        for key in keys:
            self._call(self._store.delete_key, key)

    def another(self) -> TorchChannel:
        """A connection of its own."""
        return TorchChannel(self._store.clone(), self.rank, self.size)

    def close(self) -> None:
        """The connection goes with the object."""
        self._store = None

    @staticmethod
    def _call(method: Any, *args: Any) -> Any:
        """What it returns; torch's own errors as Python's."""
        try:
            return method(*args)
        except RuntimeError as error:  # DistStoreError, DistNetworkError derive from it
            text = str(error)
            if "imeout" in text or "timed out" in text:
                raise TimeoutError(text.splitlines()[0]) from error
            raise ConnectionError(text.splitlines()[0]) from error
