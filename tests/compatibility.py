"""What Keras's classes define, name by name, and what becomes of it with ours: found out by doing it.

`python tests/compatibility.py` prints the tables of `docs/explanation/compatibility.md`; a test
(`tests/keras/test_compatibility.py`) finds each cell again.
"""

import contextlib
import inspect
import pathlib
import tempfile
import warnings
from functools import cache

import numpy as np

import keras
from peakhold import keras as pk
from peakhold.errors import AdviceWarning

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "explanation" / "compatibility.md"
ANCHOR = "<!-- the tables begin -->"
OF_EVERY_CALLBACK = keras.callbacks.Callback
OF_EVERY_CLASS = {"__module__", "__doc__", "__slotnames__"}  # the last is pickle's
BOOKKEEPING = {"_api_export_path", "_api_export_symbol_id"}

# How each is made so that what Keras's class defines is called, where ours would call it at all.
MAKERS = {
    "BackupAndRestore": lambda cls: cls("backup"),
    "CSVLogger": lambda cls: cls("log.csv"),
    "EarlyStopping": lambda cls: cls("val_loss", patience=9, restore_best_weights=True),
    "LearningRateScheduler": lambda cls: cls(lambda epoch, rate: rate),
    "ModelCheckpoint": lambda cls: cls("m.keras", save_best_only=True),
    "ReduceLROnPlateau": lambda cls: cls("val_loss", patience=1, min_delta=9.0, cooldown=1),
    "RemoteMonitor": lambda cls: cls("http://127.0.0.1:9", send_as_json=True),
    "SwapEMAWeights": lambda cls: cls(swap_on_epoch=True),
    "TensorBoard": lambda cls: cls(
        "logs", histogram_freq=1, write_images=True, update_freq=1, embeddings_freq=1
    ),
    "TerminateOnNaN": lambda cls: cls(),
}


def lenders_of(name):
    """Keras's class, and its own bases below the one of every callback."""
    mro = getattr(keras.callbacks, name).__mro__
    return mro[: mro.index(OF_EVERY_CALLBACK)]


def names_of(name):
    """All that Keras's class and its bases define, in their order."""
    defined = [key for lender in lenders_of(name) for key in vars(lender)]
    return [key for key in dict.fromkeys(defined) if key not in OF_EVERY_CLASS | BOOKKEEPING]


def model():
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    net.compile(keras.optimizers.SGD(0.01, use_ema=True), "mse")
    return net


def train(callback):
    """Two epochs, an evaluation and a prediction: all hooks are called."""
    x, net = np.ones((4, 1)), model()
    net.fit(
        x, 3 * x, batch_size=2, epochs=2, verbose=0, validation_data=(x, x), callbacks=[callback]
    )
    net.evaluate(x, x, verbose=0, callbacks=[callback])
    net.predict(x, verbose=0, callbacks=[callback])


@contextlib.contextmanager
def own_folder():
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


@cache
def when_used(name):
    """What happens to code that uses a name on an object of ours, for each."""
    found = {}
    with own_folder(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = MAKERS[name](getattr(pk, name))
        train(callback)
        for key in names_of(name):
            try:
                getattr(callback, key)
                found[key] = "works"
            except AttributeError as error:
                assert key in str(error) and "\nHint: " in str(error), error
                found[key] = "an error that says what to do"
        closed(callback)
    return found


def closed(callback):
    """What was opened by looking is closed."""
    if isinstance(callback, pk.TensorBoard):
        callback._peakhold_boarding._close_own()


def overriding(cls, stock, keys, called):
    """A subclass that defines all those names, and goes on to what it derives from."""

    def own(key):
        is_property = isinstance(inspect.getattr_static(stock, key), property)

        def call(self, *args, **named):
            called.add(key)
            above = getattr(super(subclass, self), key)
            return above if is_property else above(*args, **named)

        return property(call) if is_property else call

    subclass = type("Mine", (cls,), {key: own(key) for key in keys})
    return subclass


@cache
def when_overridden(name):
    """What happens to a subclass of ours that defines a name, for each."""
    called, stock = set(), getattr(keras.callbacks, name)
    mine = overriding(getattr(pk, name), stock, names_of(name), called)
    with own_folder(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(MAKERS[name](mine))
    said = [str(one.message) for one in caught if issubclass(one.category, AdviceWarning)]
    found = {}
    for key in names_of(name):
        texts = [text for text in said if f"Mine overrides {key!r}" in text]
        assert all("\nHint: " in text for text in texts)
        assert len(texts) == len(set(texts)) and bool(texts) is (key not in called), (key, texts)
        found[key] = "is called" if key in called else "is not called, and that is said"
    return found


def rows(name):
    """The rows of one class."""
    used, overridden = when_used(name), when_overridden(name)
    for key in names_of(name):
        yield f"| `{key}` | {used[key]} | {overridden[key]} |"


def attributes(name):
    """What an object of Keras's has after training, and whether one of ours has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "TensorBoard":
            import tensorflow  # noqa: F401 - Keras's class writes with it
        theirs, ours = (MAKERS[name](getattr(which, name)) for which in (keras.callbacks, pk))
        for callback in (theirs, ours):
            with own_folder(), contextlib.suppress(Exception):  # a server that is not there
                train(callback)
        keys = sorted(vars(theirs).keys() - {"_model", "_params", "params"})
        has = {key: hasattr(ours, key) for key in keys}
        closed(ours)
    listed = {word: ", ".join(f"`{k}`" for k in keys if has[k] is word) for word in (True, False)}
    return f"| `{name}` | {listed[True] or 'none'} | {listed[False] or 'none'} |"


def arguments(name):
    """The arguments of Keras's class, and those that ours has beside them."""
    theirs, ours = (
        {
            key: one.default
            for key, one in inspect.signature(getattr(which, name).__init__).parameters.items()
            if key not in {"self", "kwargs"}
        }
        for which in (keras.callbacks, pk)
    )
    shared = [key for key in ours if key in theirs]
    assert shared == list(theirs), "all of them, in their order"
    assert list(ours)[: len(theirs)] == list(theirs)
    others = [key for key in theirs if theirs[key] != ours[key]]
    beside = ", ".join(f"`{key}`" for key in ours if key not in theirs)
    differs = ", ".join(f"`{key}` ({theirs[key]!r} there, {ours[key]!r} here)" for key in others)
    return (
        f"| `{name}` | {len(theirs)} of {len(theirs)} | {differs or 'none'} | {beside or 'none'} |"
    )


def tables():
    """The lines of all tables."""
    for name in MAKERS:
        yield from ("", f"### {name}", "", "| name | used | overridden |", "|---|---|---|")
        yield from rows(name)
    yield from ("", "## Attributes of objects", "")
    yield "| class | both have after training | only Keras's has |"
    yield "|---|---|---|"
    yield from map(attributes, MAKERS)
    yield from ("", "## Arguments", "")
    yield "| class | of Keras's, in order | other defaults | only here |"
    yield "|---|---|---|---|"
    yield from map(arguments, MAKERS)


def shown(title):
    """The rows of one table of the page, by their first cell."""
    found = PAGE.read_text(encoding="utf-8").partition(ANCHOR)[2].split(f"# {title}\n", 1)[1]
    lines = found.split("\n#", 1)[0].splitlines()
    return [line for line in lines if line.startswith("| `")]


if __name__ == "__main__":
    print(ANCHOR, *tables(), sep="\n")
