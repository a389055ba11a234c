"""Each kind of state through each thing that holds or writes one: exact, or refused in time.

A cell is what was seen, in the words of the docs. What is neither fails: a difference, a refusal
that comes after something was written or after another step, one without the leaf's name or without
what to do, an error out of a thread. `python -m matrix_of_state` prints the table of the docs.
"""

import contextlib
import os
import pathlib
import tempfile
import threading
import warnings

import torch

import peakhold
from kinds_of_state import KINDS, frozen, leave_group, same
from peakhold.errors import PeakholdError, SaveWarning
from peakhold.store import Store

EXACT, BEGIN, STEP = "exact", "refused on train begin", "refused after the first step"
CALLED = "refused"
EPOCHS = 3


class Run:
    """Drives a subject through epochs, the first of which is the best."""

    def __init__(self, subject, callbacks, folder):
        self.subject, self.folder, self.seen = subject, folder, []
        self.callbacks = subject.callbacks(callbacks, epochs=EPOCHS + 3, verbose=0)
        self.refusal = None

    def go(self, epochs=range(EPOCHS), *, end=True):
        """Train; True if it was not refused."""
        with self.refused(BEGIN):
            self.callbacks.on_train_begin()
        for epoch in epochs:
            if self.refusal:
                return False
            with self.refused(BEGIN if epoch == epochs[0] else "too late"):
                self.callbacks.on_epoch_begin(epoch)
            if self.refusal:
                return False
            self.subject.epoch(epoch)
            self.seen.append(frozen(self.subject.parts()))
            with self.refused(STEP if epoch == epochs[0] else "too late"):
                self.callbacks.on_epoch_end(epoch, {"m": epoch, "loss": epoch})
        if end and not self.refusal:
            self.callbacks.on_train_end()
        return not self.refusal

    @contextlib.contextmanager
    def refused(self, when):
        try:
            yield
        except PeakholdError as error:
            assert when != "too late", error
            self.refusal = (when, str(error))
            assert not files(self.folder), f"written before it was refused: {files(self.folder)}"


def files(folder):
    """What was written, the notes of a run's beginning apart."""
    return [
        os.path.join(at, name)
        for at, _, names in os.walk(folder)
        for name in names
        if name.endswith((".safetensors", ".h5"))
    ]


def in_memory(kind, folder, **kwargs):
    keeper = peakhold.EarlyStopping(
        "m", mode="min", patience=9, restore_best_weights=True, restore_optimizer=True, **kwargs
    )
    subject = kind.start()
    run = Run(subject, [keeper], folder)
    if run.go():
        assert keeper.best_epoch == 0
        same(subject.parts(), run.seen[0])
    return run.refusal


def on_disk(kind, folder):
    return in_memory(kind, folder, memory_budget=1)


def to_file(kind, folder):
    subject = kind.start()
    path = os.path.join(folder, "m" + subject.suffix)
    saver = peakhold.ModelCheckpoint(path)
    run = Run(subject, [saver], folder)
    if run.go():
        assert saver.latest_path == path
        subject.read(path)
    return run.refusal


def backed_up(kind, folder):
    refusal = None
    for number, start in enumerate((kind.start, *kind.also)):
        refusal = refusal or killed_and_resumed(kind, start, os.path.join(folder, str(number)))
    return refusal


def killed_and_resumed(kind, start, folder):
    os.mkdir(folder)
    killed = Run(kind.start(), [peakhold.BackupAndRestore(folder)], folder)
    if not killed.go(end=False):
        return killed.refusal
    killed.callbacks.on_epoch_begin(EPOCHS)  # where it is cut off
    torch.manual_seed(7)
    subject = start()
    backup = peakhold.BackupAndRestore(folder)
    run = subject.callbacks([backup], epochs=EPOCHS + 3, verbose=0)
    run.on_train_begin()
    assert backup.initial_epoch == EPOCHS
    run.on_epoch_begin(EPOCHS)
    same(subject.parts(), killed.seen[-1])
    subject.epoch(EPOCHS)  # what was given back can be trained on
    run.on_epoch_end(EPOCHS, {"m": 1})
    run.on_train_end()
    return None


def in_store(kind, folder):
    subject = kind.start()
    subject.epoch(0)
    kept = frozen(subject.parts())
    with Store(folder) as store:
        try:
            store.save(1, subject.parts())
        except PeakholdError as error:
            assert not files(folder)
            return (CALLED, str(error))
        store.wait()
        assert all(finding.ok for finding in store.verify())
        for start in (kind.start, *kind.also):
            torch.manual_seed(7)
            fresh = start()
            fresh.epoch(1)
            fresh.give_back(store.load("latest").parts)
            same(fresh.parts(), kept)
    return None


COLUMNS = {
    "EarlyStopping": in_memory,
    "EarlyStopping, on disk": on_disk,
    "ModelCheckpoint": to_file,
    "BackupAndRestore": backed_up,
    "Store": in_store,
}


def cell(kind, column):
    """What is seen when a kind goes through a column.

    Returns:
        The words for it, and the message where it is refused.
    """
    errors = []
    before, threading.excepthook = threading.excepthook, lambda args: errors.append(args.exc_value)
    torch.manual_seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.filterwarnings("error", "(?!.*hold NaN or infinity before)", SaveWarning)
            refusal = COLUMNS[column](kind, folder)
    finally:
        threading.excepthook = before
        leave_group()
    assert not errors, f"in a thread: {errors}"
    if refusal is None:
        return EXACT, ""
    when, message = refusal
    assert kind.leaf in message, f"without the name of the leaf: {message}"
    assert "Hint:" in message, f"without what to do: {message}"
    return when, message


# The table of the docs

TITLES = {
    "EarlyStopping": "`EarlyStopping`, best weights in memory",
    "EarlyStopping, on disk": "the same, on disk",
    "ModelCheckpoint": "`ModelCheckpoint`",
    "BackupAndRestore": "`BackupAndRestore`",
    "Store": "`Store`",
}
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "explanation" / "kinds-of-state.md"
ANCHOR = "<!-- the tables begin -->"


def tables(kinds):
    """The lines of the tables, and of what to do."""
    group, hints = None, {}
    for kind in kinds:
        if kind.of != group:
            group = kind.of
            yield from ("", f"## {group}", "", f"| kind | {' | '.join(TITLES.values())} |")
            yield "|---|" + "---|" * len(TITLES)
        cells = [cell(kind, column) for column in COLUMNS]
        for _, message in cells:
            if message:
                hints.setdefault(hint_of(message), []).append(kind.name)
        yield f"| {kind.name} | {' | '.join(words for words, _ in cells)} |"
    yield from ("", "## What to do with what is refused", "")
    for hint, names in hints.items():
        yield f"- {', '.join(dict.fromkeys(names))}: {hint}"


def hint_of(message):
    return message.partition("Hint: ")[2].partition("\n")[0]


def shown():
    """What the page shows: by group, name and column; and its lines of what to do."""
    group, cells, hints = "", {}, []
    for line in PAGE.read_text(encoding="utf-8").partition(ANCHOR)[2].splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif line.startswith("| ") and not line.startswith("| kind |"):
            name, *words = line.strip("| ").split(" | ")
            cells.setdefault(group, {})[name] = dict(zip(COLUMNS, words, strict=True))
        elif line.startswith("- "):
            hints.append(line)
    return cells, hints


def check(kind, column):
    """Fail unless a cell is good, and as the page shows it."""
    words, message = cell(kind, column)
    cells, hints = shown()
    assert cells[kind.of][kind.name][column] == words
    if message:
        hint = next(line for line in hints if line.endswith(f": {hint_of(message)}"))
        assert kind.name in hint


if __name__ == "__main__":
    from kinds_of_keras import KERAS_KINDS

    print(ANCHOR, *tables([*KINDS, *KERAS_KINDS]), sep="\n")
