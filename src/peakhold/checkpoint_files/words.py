"""What `ModelCheckpoint` says: words alone; when they are said, `saving.py` knows.

Epochs come by their numbers for people, from 1.
"""

from __future__ import annotations

from peakhold.checkpoint_files.requests import SaveOutcome, SaveRequest
from peakhold.files.sidecar import SavedFile
from peakhold.runtime.summary import shown

__all__ = [
    "bad_variables",
    "begun",
    "better",
    "committed",
    "exempt",
    "failed",
    "goes_on",
    "kept_aside",
    "lost",
    "not_improved",
    "nothing_fills",
    "once_more",
    "reason_of",
    "refused",
    "replaced",
    "undeleted",
    "where",
    "written_here",
]


def bad_variables(names: frozenset[str]) -> str:
    """Why a state is not saved."""
    first, *others = sorted(names)
    more = f" and {len(others)} more" if others else ""
    return f"{first}{more} holds NaN or infinity"


def reason_of(error: BaseException) -> str:
    """Why a file could not be written."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def exempt(name: str, variables: frozenset[str]) -> str:
    """Before training: these are not looked at."""
    return (
        f"{name}: {', '.join(sorted(variables)[:5])} hold NaN or infinity "
        "before training; they are not checked."
    )


def goes_on(
    name: str, monitor: str, beats: float | None, path: str | None, *, is_there: bool
) -> str:
    """An object begins its second fit of one model."""
    at = None if path is None else where(path, is_there=is_there)
    if beats is None:
        text = f"their files are replaced like those of one fit, the newest is {at}"
    else:
        saved = "" if at is None else f", saved in {at}"
        text = f"the value to beat is {monitor} {shown(beats)}{saved}"
    return (
        f"Peakhold: {name} goes on from its earlier fits of this model: {text}. "
        f"A new {name} starts afresh."
    )


def where(path: str, *, is_there: bool) -> str:
    """A path, and whether somebody has taken the file away."""
    return path if is_there else f"{path} (which is not there any more)"


def better(monitor: str, path: str, saved: SavedFile) -> str:
    """Another run has left a better file."""
    value = "" if saved.value is None else f" {shown(saved.value)}"
    return f"an earlier run's {monitor}{value} is better, saved in {path}"


def nothing_fills(name: str, place: str, filepath: str) -> str:
    """A place in the name stays empty."""
    return (
        f"{name}: there is no {place} for {filepath!r} at this save; the name has NA in its place."
    )


def written_here(name: str, filepath: str, reason: str) -> str:
    """Training waits for each file."""
    return f"{name} writes {filepath} while training waits: {reason}."


def begun(number: int, path: str, monitor: str, before: float | None, value: float | None) -> str:
    """A save is decided; of one that is ranked, what it is better than."""
    text = f"saving model to {path}"
    if value is not None:
        text = f"{monitor} improved from {_number(before)} to {value:.5f}, {text}"
    return f"\nEpoch {number}: {text}"


def once_more(request: SaveRequest) -> str:
    """What the disk refused is tried again."""
    return f"\nEpoch {request.number}: saving model to {request.path}, once more"


def not_improved(number: int, monitor: str, before: float | None) -> str:
    """Keras's words."""
    return f"\nEpoch {number}: {monitor} did not improve from {_number(before)}"


def refused(name: str, number: int, defect: str, latest: str | None) -> str:
    """A state is not worth its file."""
    kept = f" {latest!r} stays as it is." if latest else ""
    return (
        f"{name} does not save epoch {number}: {defect}.{kept} "
        "Pass check_finite=False to save such states."
    )


def failed(name: str, request: SaveRequest, reason: str, *, kept: bool) -> str:
    """The disk has refused a file."""
    again = " A copy of its state is kept, to try once more." if kept else ""
    return f"{_not_saved(name, request, reason)}; training goes on.{again}"


def _not_saved(name: str, request: SaveRequest, reason: str) -> str:
    return (
        f"{name} could not save epoch {request.number} to {request.path!r}: {reason}. What was "
        "saved before is as it was"
    )


def lost(name: str, outcome: SaveOutcome) -> str | None:
    """What went wrong with a save that nobody asks for any more; None if nothing did."""
    request = outcome.request
    if outcome.bad:
        return refused(name, request.number, bad_variables(outcome.bad), None)
    if outcome.error is not None:
        text = _not_saved(name, request, reason_of(outcome.error))
        return f"{text}; the run that asked for it is over."
    return None if outcome.trouble is None else undeleted(name, outcome)


def committed(request: SaveRequest) -> str:
    """A file is there."""
    return f"\nEpoch {request.number}: finished saving model to {request.path}"


def kept_aside(outcome: SaveOutcome) -> str:
    """Another file had the name."""
    when = "was there before this run" if outcome.was_before else "was not written by Peakhold"
    return f"{outcome.request.path} {when}; it is kept as {outcome.aside}."


def rewritten(path: str) -> str:
    """Somebody has changed a file of this run."""
    return f"{path} was changed by another program since this run saved it; it was replaced."


def replaced(path: str, filepath: str) -> str:
    """A file of this run had the name."""
    text = f"{path} is the name of an earlier save of this run, too, and was replaced"
    lacks = [place for place in ("epoch", "batch") if f"{{{place}" not in filepath]
    if not lacks:
        return f"{text}."
    return (
        f"{text}; put {' or '.join(f'{{{place}}}' for place in lacks)} into the name to keep both."
    )


def undeleted(name: str, outcome: SaveOutcome) -> str:
    """Old files are still there."""
    return (
        f"{name} could not delete older files: {outcome.trouble}. {outcome.request.path!r} is safe."
    )


def _number(value: float | None) -> str:
    return "None" if value is None else f"{value:.5f}"
