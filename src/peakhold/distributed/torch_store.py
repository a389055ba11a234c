"""Workers of a `torch.distributed` group: keys in the group's own store.

Rules of this file:

1. Never the training group: a collective of ours between the user's would mix with them.
2. Connections of our own, one for each thread: a client that waits holds its lock.
3. Nothing is waited for inside of the store: whenever such a wait is over in vain, torch prints two
   lines on stderr, and a `FileStore` looks at its clock once a second. It is asked again and again,
   at first at once, then less and less often.
4. Keys carry the launcher's run, its attempt and the number of the group in this process: the store
   of a launcher lives longer than its workers, and longer than a group that is made anew.
5. `_get_default_store` is private; it stands here and nowhere else, and a test says that it is
   there.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast, final

from peakhold.errors import WorkersError

__all__ = ["TorchChannel", "torch_channel", "torch_group"]

_SOONEST_S: Final = 0.0001
"""The first time that it is asked again: a key of a round on one machine is there by then."""
_LATEST_S: Final = 0.1
_SHARE: Final = 0.1
"""Of the time that it has waited so far, it waits once more: what that adds is as little."""

_groups: Final[Iterator[int]] = itertools.count()
"""Of this process, as far as there was a run in them."""


def torch_group() -> weakref.ref[Any] | None:
    """The store of a `torch.distributed` group of several processes; None if there is none.

    Held weakly: the port that it listens at is free when the user destroys the group.

    Raises:
        WorkersError: If its processes have no store in common (MPI).
    """
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is None or not torch_distributed.is_available():
        return None
    if not torch_distributed.is_initialized() or torch_distributed.get_world_size() < 2:
        return None
    if torch_distributed.get_backend() == "fake":  # one process that plays all of them
        return None
    store = torch_distributed.distributed_c10d._get_default_store()
    if store is None:
        raise WorkersError.of_rank(
            None,
            "expected a torch.distributed group with a store of keys, got one of "
            f"backend={torch_distributed.get_backend()!r} without.",
            hint="pass the workers of CallbackList or Run: a TorchChannel (of "
            "peakhold.distributed.torch_store) over a torch.distributed.TCPStore of your own.",
        )
    return weakref.ref(store)


def torch_channel(store: weakref.ref[Any]) -> TorchChannel:
    """The channel of the group of this store."""
    group, held = sys.modules["torch.distributed"], cast("Any", store())
    return TorchChannel(held.clone(), group.get_rank(), group.get_world_size())


@final
class TorchChannel:
    """Keys in a store of torch's.

    Args:
        store: A connection to it that nobody else uses.
        rank: This worker's number.
        size: How many there are.
        attempt: Names this start of the workers. Defaults to what the launcher says of it, and the
            number of the channel in this process.
    """

    def __init__(self, store: Any, rank: int, size: int, attempt: str | None = None) -> None:
        self._store, self.rank, self.size = store, rank, size
        self.attempt = _attempt() if attempt is None else attempt
        self._awaited = "", 0.0
        """The key that was not there in time, and since when it is waited for."""

    def set(self, key: str, value: bytes) -> None:
        """Let all see a value."""
        self._call(self._store.set, key, value)

    def replace(self, key: str, value: bytes) -> None:
        """As `set`: keys may be written again."""
        self._call(self._store.set, key, value)

    def get(self, key: str, seconds: float) -> bytes | None:
        """A value, if it is there in time."""
        if not self._call(self._store.check, [key]) and not self._comes(key, seconds):
            return None
        value: bytes = self._call(self._store.get, key)
        return value

    def _comes(self, key: str, seconds: float) -> bool:
        """Whether a key is there within so many seconds."""
        if not seconds:
            return False
        now = time.monotonic()
        awaited, since = self._awaited
        since, end = since if awaited == key else now, now + seconds
        while now < end:
            pause = min(max(_SHARE * (now - since), _SOONEST_S), _LATEST_S)
            time.sleep(min(pause, end - now))
            if self._call(self._store.check, [key]):
                return True
            now = time.monotonic()
        self._awaited = key, since
        return False

    def delete(self, keys: Iterable[str]) -> None:
        """Forget keys."""
        for key in keys:
            self._call(self._store.delete_key, key)

    def another(self) -> TorchChannel:
        """A connection of its own."""
        return TorchChannel(self._store.clone(), self.rank, self.size, self.attempt)

    def close(self) -> None:
        """The connection goes with the object."""
        self._store = None

    @staticmethod
    def _call(method: Any, *args: Any) -> Any:
        """What it returns; torch's own errors as Python's."""
        try:
            return method(*args)
        except RuntimeError as error:  # DistStoreError, DistNetworkError derive from it
            raise ConnectionError(str(error).splitlines()[0]) from error


def _attempt() -> str:
    run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"{run}.{restart}.{next(_groups)}"
