"""The workers of one run, from the beginning of its `with` to the end.

Rules of this file:

1. Rank 0 alone looks at the folder before the run begins. What is wrong with it is an error on all,
   with the same words: nobody waits for a worker that has raised.
2. All leave together, rank 0 last: by then its record is closed, and what the others read of the
   folder is whole. The keys that they wait for may lie in its process.
3. Where one ends by an error nothing is agreed on any more. The others hear of it in their next
   exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from peakhold import errors
from peakhold.distributed import Coordinator
from peakhold.errors import (
    PeakholdError,
    WorkerFailedError,
    WorkerLostError,
    WorkersDifferError,
)

__all__ = ["first_opens", "leave_together", "meet"]

T = TypeVar("T")

_OPENS = "the opening of the run's folder"


def meet(workers: Coordinator, said: Mapping[str, Any]) -> None:
    """See that all begin the same run.

    Args:
        workers: The coordinator.
        said: What each says of the run: plain JSON.

    Raises:
        WorkersDifferError: On all of them, if they say different things.
    """
    offers = workers.meet(dict(said))
    for rank, other in enumerate(offers):
        for name, value in offers[0].items():
            if other[name] != value:
                raise WorkersDifferError.of_rank(
                    rank,
                    f"expected the same run on all workers, got {name}={value!r} on rank 0, and "
                    f"{other[name]!r} on rank {rank}.",
                    hint="pass the same arguments to Run on every rank; for runs of their own, "
                    "`with peakhold.distributed.alone():` and a folder for each.",
                )


def first_opens(workers: Coordinator, opens: Callable[[], T]) -> T | None:
    """Have rank 0 open something; None on the others.

    Args:
        workers: The coordinator.
        opens: What to do on rank 0.

    Raises:
        PeakholdError: On all of them, what it raised on rank 0.
    """
    if workers.rank:
        trouble = workers.agree(_OPENS, None)
        if trouble is not None:
            raise _as_it_was(*trouble)
        return None
    try:
        opened = opens()
    except BaseException as error:
        workers.agree(_OPENS, [type(error).__name__, str(error), _plain(error)])
        raise
    workers.agree(_OPENS, None)
    return opened


def leave_together(workers: Coordinator) -> None:
    """All is written, and all leave; rank 0 when the others have heard.

    Raises:
        WorkersError: On another worker, if rank 0 is gone before it has closed the record.
    """
    try:
        workers.gather("the end of the run's record", None)
        workers.aggregate("the end of the run's record, of rank 0", None)
    except WorkerLostError:
        if workers.rank:
            raise  # else the run is whole, whoever has died since


def _plain(error: BaseException) -> dict[str, Any]:
    """What an error names."""
    plain = (str, int, float, bool, type(None))
    return {name: value for name, value in vars(error).items() if isinstance(value, plain)}


def _as_it_was(name: str, message: str, named: Mapping[str, Any]) -> PeakholdError:
    """Rank 0's error, on another worker."""
    kind = getattr(errors, name, None) if name in errors.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, PeakholdError)):
        return WorkerFailedError.of_rank(0, f"rank 0 ended with {name}: {message}")
    error = kind(message)
    vars(error).update(named)
    return error
