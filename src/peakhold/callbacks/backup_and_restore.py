"""Go on after a crash as if nothing had happened.

What can be set, and what it means. What happens in a run stands in `backup/keeping.py`.
"""

from __future__ import annotations

import os
from typing import Any

from peakhold._core.arguments import check_count, check_number
from peakhold.backup.interrupted import STATE
from peakhold.backup.keeping import Keeping
from peakhold.disk.local_path import local_path
from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import WEIGHTS
from peakhold.runtime.participating import BatchHooks, Setting

__all__ = ["BackupAndRestore"]


class BackupAndRestore(BatchHooks):
    """Back the whole training up, and go on from there if it is interrupted.

    The same line starts a run and resumes it. Together come back: the model, the optimizer, metric
    variables, seed generators, the random generators of Python, NumPy and the framework, the
    learning rate, the epoch, `History`, the rows of `CSVLogger`, and the `state_dict` of every
    callback of the run that has one, with best weights held in memory. So a resumed run stops at
    the same epoch, keeps the same best and ends with the same weights as one that was never
    interrupted. Where it stands in the list does not matter.

    In loops of your own, what else has a state (a scheduler, a `GradScaler`, an average) is named
    in `CallbackList(..., extra={"scheduler": scheduler})`. A loop that does not begin where the run
    goes on is told so, by an error at its first hook.

    After a run that ended well the backup is deleted. It stays after Ctrl-C, an exception, or a
    stop because of NaN. If it says that training was over, nothing is trained any more: state, best
    weights and history are put back.

    Args:
        backup_dir: The folder; one for each run. What else is in it is not touched.
        save_freq: `"epoch"`: after each epoch. A number of batches: within epochs, too. `False`:
            only when SIGTERM comes, at the end of the batch. Defaults to `"epoch"`.
        double_checkpoint: The two newest backups are kept in any case. Defaults to `False`.
        delete_checkpoint: Whether to delete the backup when training has ended. Defaults to `True`.
        sigterm_timeout: Seconds that SIGTERM waits for a backup under way, at least 0, before it
            takes its usual course. Defaults to `20.0`.
        exact: Whether `fit` goes on after the very batch of a backup within an epoch, with the same
            rows, metrics and random numbers. Where that cannot be (a Python generator, a shuffle
            without a seed), it is said before the first batch, and the epoch is begun anew with the
            weights of that batch. `False`: always so, as in Keras. Defaults to `True`.

    Attributes:
        initial_epoch: The epoch that this run begins with, from 0, or as the loop counts; loops of
            your own ask for it (`CallbackList.initial_epoch`), `fit` is told.

    Raises:
        InvalidArgumentError: For an empty `backup_dir`, `save_freq="batch"`, ….
        StoreOwnedError: On train begin, if another run writes its backups there.
        BackupMismatchError: On train begin, if the backup is of another model, or of an `extra` of
            another name or shape.
        CheckpointDamagedError: On train begin, if no backup there is whole. If only the newest is
            damaged, the one before is used, and a warning says so.

    Example:
        >>> import numpy as np, tempfile
        >>> from peakhold import BackupAndRestore, CallbackList, LoopHost
        >>> params, folder = {"w": np.zeros(2)}, tempfile.mkdtemp() + "/backup"
        >>> host = LoopHost(get_state=lambda: params, set_state=params.update)
        >>> def train(epochs, crash_at=None):
        ...     backup = BackupAndRestore(folder)
        ...     callbacks = CallbackList(backup, host=host, epochs=epochs, verbose=0)
        ...     callbacks.on_train_begin()
        ...     for epoch in range(callbacks.initial_epoch, epochs):
        ...         callbacks.on_epoch_begin(epoch)
        ...         if epoch == crash_at:
        ...             raise RuntimeError("power cut")
        ...         params["w"] = params["w"] + 1
        ...         callbacks.on_epoch_end(epoch, {"loss": 0.5})
        ...     callbacks.on_train_end()
        >>> try:
        ...     train(5, crash_at=3)
        ... except RuntimeError:
        ...     params["w"] = np.zeros(2)  # lost
        >>> train(5)
        >>> params["w"]
        array([5., 5.])

    Source:
        `keras.callbacks.BackupAndRestore` of Keras 3.15; K-R1 to K-R14.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        sigterm_timeout: float = 20.0,
        exact: bool = True,
    ) -> None:
        path = local_path(
            "backup_dir",
            backup_dir,
            "the path of a folder",
            hint="Empty `backup_dir` argument passed; pass a folder such as 'backup/run-1'.",
        )
        keeping = Keeping(path, _check_save_freq(save_freq))
        keeping.double_checkpoint = bool(double_checkpoint)
        keeping.delete_checkpoint = bool(delete_checkpoint)
        keeping.exact = bool(exact)
        keeping.sigterm_timeout = check_number("sigterm_timeout", sigterm_timeout, at_least=0)
        super().__init__(keeping)

    backup_dir = Setting[str]("The folder.")
    save_freq = Setting[Any]("`epoch`, a number of batches, or False.")
    double_checkpoint = Setting[bool]("The two newest backups are kept in any case.")
    delete_checkpoint = Setting[bool]("Whether the backup is deleted when training has ended.")
    sigterm_timeout = Setting[float]("Seconds that SIGTERM waits for a backup under way.")
    exact = Setting[bool]("Whether `fit` goes on inside an epoch, where it can.")
    initial_epoch = Setting[int](
        "The epoch that this run begins with, from 0 or as the loop counts."
    )

    # Names that Keras's own tests look at. They wait for the writer.

    @property
    def _peakhold_keeping(self) -> Keeping:
        participant: Any = self._peakhold_link.participant
        return participant  # type: ignore[no-any-return]

    _current_epoch = property(lambda self: self._peakhold_keeping.current_epoch)
    _last_batch_seen = property(lambda self: self._peakhold_keeping.last_batch_seen)
    _weights_path = property(lambda self: self._peakhold_keeping.file(0, f"{WEIGHTS}.safetensors"))
    _training_metadata_path = property(lambda self: self._peakhold_keeping.file(0, f"{STATE}.json"))
    _prev_weights_path = property(
        lambda self: self._peakhold_keeping.file(1, f"{WEIGHTS}.safetensors")
    )
    _prev_training_metadata_path = property(
        lambda self: self._peakhold_keeping.file(1, f"{STATE}.json")
    )


def _check_save_freq(save_freq: Any) -> str | int:
    if save_freq == "epoch" or save_freq is False:
        return save_freq  # type: ignore[no-any-return]  # one of the two
    hint = (
        f"Invalid value for argument `save_freq`. Received: save_freq={save_freq}. "
        "Expected either 'epoch' or an integer value."
    )
    if isinstance(save_freq, (bool, str, float)):
        raise InvalidArgumentError.for_argument(
            "save_freq", save_freq, "'epoch', a number of batches, or False", hint=hint
        )
    return check_count("save_freq", save_freq, at_least=1, hint=hint)
