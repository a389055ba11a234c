"""The callbacks that a run's `monitor` and `patience` make, and those that its folder needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peakhold._core.arguments import check_count, check_monitor
from peakhold._core.policies.plateau import before_stopping
from peakhold.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
)
from peakhold.errors import InvalidArgumentError, PeakholdError
from peakhold.host.contract import Host
from peakhold.ledger.folder import RunFolder

__all__ = ["deciding", "recording"]


def deciding(
    folder: RunFolder,
    monitor: str | None,
    mode: str,
    patience: int | None,
    host: Host,
    extra: Mapping[str, Any],
) -> list[Any]:
    """What lowers the rate, stops, and keeps the best.

    Args:
        folder: The run's.
        monitor: The metric that ranks; None: nothing ranks.
        mode: `auto`, `min` or `max`.
        patience: Checks without improvement; None: nothing stops.
        host: What is trained.
        extra: What else has a state; a scheduler among it sets the rate.

    Raises:
        InvalidArgumentError: For a patience without a monitor, ….
    """
    if monitor is None:
        if patience is not None:
            raise InvalidArgumentError.for_argument(
                "monitor",
                None,
                "the metric that patience waits for",
                hint="pass monitor='val_loss', patience=8.",
            )
        return []
    check_monitor(monitor)
    ranks: dict[str, Any] = {"monitor": monitor, "mode": mode}
    made: list[Any] = []
    if patience is not None:
        patience = check_count("patience", patience, at_least=1)
        follows_schedule = any(map(_schedules, extra.values())) or not _rates_can_be_set(host)
        if patience > 1 and not follows_schedule:
            made.append(ReduceLROnPlateau(**ranks, **before_stopping(patience)))
        restores = bool(host.parts())
        made.append(EarlyStopping(**ranks, patience=patience, restore_best_weights=restores))
    suffixes = host.file_suffixes()
    if suffixes is None or suffixes:
        suffix = ".keras" if suffixes and ".keras" in suffixes else ".safetensors"
        made.append(ModelCheckpoint(folder.at(f"best{suffix}"), **ranks, save_best_only=True))
    return made


def recording(folder: RunFolder, callbacks: Iterable[Any]) -> list[Any]:
    """What writes the folder's logs and checkpoints, as far as the user's list has it not."""
    given = [*callbacks]

    def has(kind: type) -> bool:
        return any(isinstance(one, kind) for one in given)

    made: list[Any] = []
    if not has(CSVLogger):
        made.append(CSVLogger(folder.metrics, append=True, learning_rate=True))
    if not has(TensorBoard):
        made.append(TensorBoard(folder.tensorboard))
    if has(BackupAndRestore):
        raise InvalidArgumentError.for_argument(
            "callbacks",
            "BackupAndRestore",
            "callbacks without one: the run backs itself up",
            hint="leave it out; save_every= says how often.",
        )
    made.append(BackupAndRestore(folder.checkpoints, save_freq=False, delete_checkpoint=False))
    return made


def _rates_can_be_set(host: Host) -> bool:
    """Whether there is an optimizer whose rate nothing else sets."""
    try:
        host.check_rates_settable("run")
    except PeakholdError:
        return False
    return True


def _schedules(one: Any) -> bool:
    """Whether this is a schedule of learning rates."""
    return hasattr(one, "get_last_lr") or hasattr(one, "base_lrs")
