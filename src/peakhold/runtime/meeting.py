"""A run of several workers begins: do their programs say the same?

Rules of this file:

1. All workers compare the same offers, so an error is one on all of them, and says what to write.
2. Compared is what decides or acts, and each setting that is no mere talk. What only records, and a
   user's own callbacks, may stand on some workers only.
3. Where one worker's list is cut into segments, all others' are: rounds are the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peakhold.errors import WorkersDifferError
from peakhold.runtime.arguments import arguments_of

if TYPE_CHECKING:
    from peakhold.runtime.seat import Seat
    from peakhold.runtime.session import Session

__all__ = ["meet"]

_HINT = (
    "pass the same callbacks, with the same settings, on every rank; what only records (CSVLogger, "
    "TensorBoard, alerts) and callbacks of your own may stand on some only."
)


def meet(session: Session, fresh: Sequence[Seat]) -> None:
    """See that all workers begin one run, and cut the lists alike.

    Args:
        session: The run.
        fresh: Those who have not met yet.

    Raises:
        WorkersDifferError: On all workers, if their programs say different things.
    """
    session.host.check_workers()
    own = _offer(session, fresh)
    offers = session.coordinator.meet(own)
    for rank, offer in enumerate(offers):
        for text in _differences(offers[0], offer, rank):
            raise WorkersDifferError.of_rank(rank, text, hint=_HINT)
    session.cut_before(row[0] for offer in offers for row in offer["rows"])
    followed = [offer["is_followed"] for offer in offers]
    if session.proposals is not None and any(followed) and None not in followed:
        session.proposals.ask_after_epochs()


def _offer(session: Session, fresh: Sequence[Seat]) -> dict[str, Any]:
    rows: list[list[str]] = []
    segment: object = None
    for seat in fresh:
        if not seat.exchanges:
            continue
        if seat.segment is not segment:
            rows.append([])
        segment = seat.segment
        rows[-1].append(seat.name)
    return {
        "rows": rows,
        "settings": {s.name: arguments_of(s.callback) for s in fresh if s.exchanges},
        "epochs": session.epochs,
        "is_followed": _is_followed(session),
    }


def _is_followed(session: Session) -> bool | None:
    """Whether a user's callback may set `stop_training` when the last round of an epoch is over.

    None: nobody knows, for no list calls the callbacks.
    """
    if session.driver is None:
        return None
    deciding = [seat for seat in session.seats if seat.exchanges]
    return not deciding or session.segments.user_callbacks_follow(deciding[-1].callback)


def _differences(first: Mapping[str, Any], other: Mapping[str, Any], rank: int) -> Iterator[str]:
    here = [name for row in first["rows"] for name in row]
    there = [name for row in other["rows"] for name in row]
    for names, others, whose, lacks in ((here, there, 0, rank), (there, here, rank, 0)):
        missing = [name for name in names if name not in others]
        if missing:
            yield (
                f"expected the same callbacks on all workers, got {missing[0]} on rank {whose}, "
                f"and none on rank {lacks}."
            )
    if here != there:
        yield (
            f"expected the callbacks of all workers in one order, got {', '.join(here)} on rank 0, "
            f"and {', '.join(there)} on rank {rank}."
        )
    for name in here:
        mine, theirs = first["settings"][name], other["settings"][name]
        for argument in {**mine, **theirs}:
            if mine.get(argument) != theirs.get(argument):
                yield (
                    f"expected the same settings on all workers, got {argument}="
                    f"{mine.get(argument)} of {name} on rank 0, and {theirs.get(argument)} on rank "
                    f"{rank}."
                )
    if first["epochs"] != other["epochs"]:
        yield (
            f"expected the same number of epochs on all workers, got epochs={first['epochs']} on "
            f"rank 0, and {other['epochs']} on rank {rank}."
        )
