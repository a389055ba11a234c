"""The rules: each a small pure function from what the callbacks of one fit can see to advice.

A rule says what was seen, why it costs, and what to write. It takes the mildest form that helps: a
notice is printed with the run's other messages, a warning goes through `warnings`, and what is
common and right is only named in the summary. A false alarm is a bug: where a rule cannot know, it
is silent. Codes are those of the documentation's table; `silence("E6")` turns one off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from peakhold._core.monitor import Direction, infer_direction
from peakhold._core.patience import Patience, Seconds, Steps
from peakhold.advice.folders import RULES as OF_FOLDERS
from peakhold.advice.said import Advice, is_silenced, spoken
from peakhold.advice.settings import RunSettings, Stopper
from peakhold.speech import listed

__all__ = ["advise_on", "differing", "not_finite"]

_ALMOST = 0.9
"""A schedule is meant for the whole run even if its steps were rounded, or a warm-up forgotten."""


def training_metric(facts: RunSettings) -> Iterator[Advice]:
    """E2: a training metric is monitored while a validation one exists."""
    if not facts.validates:
        return
    for monitor, names in _who(facts.monitored()):
        known = infer_direction(monitor, facts.directions) is not None
        if known and _is_there(facts, monitor) and not monitor.startswith("val_"):
            # TensorFlow knows the names after the first batch: the one given may be mistyped.
            is_sure = facts.names is not None or monitor == "loss"
            right = repr(f"val_{monitor}") if is_sure else "the val_ metric in its place"
            yield Advice(
                "E2",
                "warning",
                f"{listed(names)} {'monitors' if len(names) == 1 else 'monitor'} {monitor!r}, "
                "which keeps improving while the model overfits; "
                f"this fit validates: monitor {right}.",
            )


def contradiction(facts: RunSettings) -> Iterator[Advice]:
    """E3: `mode` says the opposite of what the metric, or else its name, says."""
    wrong = []
    for name, monitor, mode in facts.monitored():
        direction = infer_direction(monitor, facts.directions)
        if mode in {"min", "max"} and direction is not None and direction != Direction(mode):
            wrong.append((name, monitor, mode))
    for monitor, names in _who(wrong):
        direction = infer_direction(monitor, facts.directions)
        yield Advice(
            "E3",
            "warning",
            f"{listed(names)} {'takes' if len(names) == 1 else 'take'} the "
            f"{'largest' if direction is Direction.MIN else 'smallest'} {monitor!r} for "
            f"the best; if that is not meant, write mode='{direction}'.",
        )


def _who(monitored: Iterable[tuple[str, str, str]]) -> Iterable[tuple[str, list[str]]]:
    """Each metric, and the classes that look at it: what holds for several is said once."""
    found: dict[str, dict[str, None]] = {}
    for name, monitor, _ in monitored:
        found.setdefault(monitor, {})[name] = None
    return ((monitor, list(names)) for monitor, names in found.items())


def _is_there(facts: RunSettings, monitor: str) -> bool:
    """Whether the model has this metric, as far as anybody knows; then there is 'val_…', too."""
    return facts.names is None or monitor in facts.names


def last_weights(facts: RunSettings) -> Iterator[Advice]:
    """E4: early stopping keeps the last weights, not the best."""
    if facts.stoppers and not any(stopper.restores for stopper in facts.stoppers):
        best = next((c.path for c in facts.savers if c.best_only), None)
        if best is not None:  # a name with places to fill is no path that can be loaded
            best = "the file of ModelCheckpoint's best_path" if "{" in best else repr(best)
        yield Advice(
            "E4",
            "notice",
            "EarlyStopping will leave the last epoch's weights in the model, not the best: pass "
            "restore_best_weights=True" + (f", or load {best} afterwards." if best else "."),
        )


def differing(bests: Iterable[tuple[str, int]]) -> Iterator[Advice]:
    """E5: different metrics are watched, and their best epochs differ.

    Common and right: only named, after the run.

    Args:
        bests: Monitor and best epoch of each callback that ranks.
    """
    held = set(bests)
    several = len({monitor for monitor, _ in held}) > 1 and len({epoch for _, epoch in held}) > 1
    if several and not is_silenced("E5"):
        yield Advice("E5", "summary", "different metrics are watched, so the best epochs differ")


def plateau_too_late(facts: RunSettings) -> Iterator[Advice]:
    """E6: training stops before the lower rate gets its chance."""
    for plateau in facts.plateaus:
        for stopper in facts.stoppers:
            if plateau.monitor != stopper.monitor or not stopper.alone:
                continue
            waits = _length(plateau.patience, facts)
            stops = _length(stopper.patience, facts, stopper.start)
            if any(unit in stops and waits[unit] >= stops[unit] for unit in waits):
                yield Advice(
                    "E6",
                    "warning",
                    f"ReduceLROnPlateau(patience={plateau.patience}) waits as long as "
                    f"EarlyStopping(patience={stopper.patience}) or longer, so training ends "
                    "before a lower rate can help; pass "
                    f"patience={_twice(plateau.patience)} or more to EarlyStopping.",
                )


def useless_patience(facts: RunSettings) -> Iterator[Advice]:
    """E7: patience 0, or longer than the run."""
    for stopper in facts.stoppers:
        if stopper.patience == 0:
            yield Advice(
                "E7",
                "warning",
                "EarlyStopping(patience=0) acts like patience=1, as in Keras: one epoch without "
                "improvement ends training; pass the number of epochs that it may take.",
            )
        elif not _can_stop(stopper, facts):
            start = f", start_from_epoch={stopper.start}" if stopper.start else ""
            yield Advice(
                "E7",
                "notice",
                f"EarlyStopping(patience={stopper.patience}{start}) cannot stop a run of "
                f"{_epochs(facts.epochs)}; write a smaller patience or more epochs.",
            )


def overwritten(facts: RunSettings) -> Iterator[Advice]:
    """E8: each save replaces the last, or two callbacks write one path."""
    for saver in facts.savers:
        if saver.overwrites and not saver.best_only and facts.epochs != 1:
            yield Advice(
                "E8",
                "notice",
                f"ModelCheckpoint({saver.path!r}): each save replaces the last; to keep them "
                "all, put {epoch:02d} into the name, to keep the best, write save_best_only=True.",
            )
    for path, n in Counter(facts.paths).items():
        if n > 1:
            yield Advice(
                "E8",
                "warning",
                f"{n} callbacks write {path!r}, and each replaces the other's file; give each a "
                "path of its own.",
            )


def never_validates(facts: RunSettings) -> Iterator[Advice]:
    """E11: validation data are given, and no epoch of the run looks at them."""
    first, epochs = facts.first_validation, facts.epochs
    if first is not None and epochs is not None and first > epochs:
        yield Advice(
            "E11",
            "warning",
            f"validation_freq asks for validation after epoch {first} at first, and this run has "
            f"{_epochs(epochs)}: no val_ metric will be logged; write a smaller validation_freq.",
        )


def several_processes_one_path(facts: RunSettings) -> Iterator[Advice]:
    """E12: the environment speaks of several processes, no group is there, and one path for all."""
    if facts.strangers is None:
        return
    variable, n = facts.strangers
    for path in dict.fromkeys(path for path in facts.paths if "{worker" not in path):
        yield Advice(
            "E12",
            "warning",
            f"{variable}={n} says that this is one of {n} processes, which have no group that "
            f"Peakhold can see, and each writes {path!r}: set the group up before training begins "
            "(torch.distributed.init_process_group, jax.distributed.initialize), or put {worker} "
            "into the name.",
        )


def not_finite(monitor: str, value: float, number: int, who: str | None) -> Iterator[Advice]:
    """E13: a metric is NaN or infinite in the first epoch that has it.

    Args:
        monitor: The metric.
        value: Its value.
        number: The epoch, from 1.
        who: Who ranks by it; None: nobody looks at it.
    """
    if is_silenced("E13"):
        return
    if who is not None:
        yield Advice(
            "E13",
            "warning",
            f"{who}: {monitor} is {value} at epoch {number}, the first that has it; it will never "
            "count as best.",
        )
        return
    # Of a loss all that comes after is lost; any other metric may not be defined yet.
    is_loss = monitor in {"loss", "val_loss"}
    yield Advice(
        "E13",
        "warning" if is_loss else "notice",
        f"{monitor} is {value} at the end of the first epoch, and nothing watches it; look at the "
        "data and the learning rate, or end such a run with TerminateOnNaN().",
        once=not is_loss,
    )


def cannot_resume(facts: RunSettings) -> Iterator[Advice]:
    """E14: a run that is backed up has callbacks whose state nobody knows."""
    for names, cure in zip(
        facts.forgetful,
        ("give it `state_dict()` and `load_state_dict(state)`", "import it from `peakhold.keras`"),
        strict=True,
    ):
        if names:
            yield Advice(
                "E14",
                "notice",
                f"BackupAndRestore does not bring back what {', '.join(names)} may remember; "
                f"{cure}.",
                again=True,
            )


def stops_a_schedule(facts: RunSettings) -> Iterator[Advice]:
    """E15: early stopping, and a learning rate that needs the whole run."""
    if not any(_can_stop(stopper, facts) for stopper in facts.stoppers):
        return
    for schedule in facts.schedules:
        of = facts.epochs if schedule.by_epoch else _steps(facts)
        if of and schedule.ends_after >= _ALMOST * of:
            yield Advice(
                "E15",
                "notice",
                f"the learning rate follows {schedule.name} to the end of this run, where it is "
                "lowest and the metric may still improve; EarlyStopping may end training before: "
                "leave it out and keep the best by ModelCheckpoint(path, save_best_only=True), or "
                "lower the rate by ReduceLROnPlateau.",
            )


def _epochs(count: int | None) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _steps(facts: RunSettings) -> int | None:
    return facts.epochs * facts.steps if facts.epochs and facts.steps else None


def _length(patience: Patience, facts: RunSettings, start: int = 0) -> dict[str, float]:
    """How long a wait lasts at least, from train begin, in each unit in which that is known."""
    if isinstance(patience, Seconds):
        return {"seconds": patience.s} if not start else {}
    if isinstance(patience, Steps):
        if facts.steps:
            return {"steps": start * facts.steps + patience.n}
        return {"steps": patience.n} if not start else {}
    if math.isinf(patience):  # for ever: who writes that means it
        return {}
    epochs = start + max(math.ceil(patience), 1)
    return {"epochs": epochs, **({"steps": epochs * facts.steps} if facts.steps else {})}


def _can_stop(stopper: Stopper, facts: RunSettings) -> bool:
    """Whether its wait may be over before the run is."""
    wait = _length(stopper.patience, facts, stopper.start)
    run = {"epochs": facts.epochs, "steps": _steps(facts)}
    return all(wait[unit] < end for unit, end in run.items() if unit in wait and end is not None)


def _twice(patience: Patience) -> Patience:
    if isinstance(patience, Steps):
        return Steps(patience.n * 2)
    return Seconds(patience.s * 2) if isinstance(patience, Seconds) else max(patience * 2, 2)


_RULES: tuple[Callable[[RunSettings], Iterator[Advice]], ...] = (
    training_metric, contradiction, last_weights, plateau_too_late, useless_patience, overwritten,
    *OF_FOLDERS, never_validates, several_processes_one_path,
    cannot_resume, stops_a_schedule,
)  # fmt: skip


def advise_on(facts: RunSettings) -> list[Advice]:
    """All advice that applies, without repeats, silenced codes left out."""
    return spoken(advice for rule in _RULES for advice in rule(facts))
