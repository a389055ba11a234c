"""People's subclasses take any name: those of the verbs and attributes of what a callback holds."""

import copy

from fake_slack import FakeSlack
from peakhold.runtime.callback import link_of
from peakhold.runtime.link import Link
from peakhold.runtime.run_view import RunView
from peakhold.runtime.seat import Seat
from peakhold.runtime.session import Session

WAYS = ("method", "class attribute", "attribute set before", "attribute set after")


PEOPLE_TAKE = {
    "_name", "_history", "_rows", "_saves", "_check", "_reset", "_save", "_best", "_host", "_run",
    "_state", "_epoch", "_logs", "_session", "_policy", "_writer", "_file", "_watch", "data", "db",
}  # fmt: skip
"""What subclasses are full of."""


def names_of(callback):
    """Every name of ours behind a callback, but those that the callback has itself.

    What its participant answers to, and what a run is made of.

    What the class that people derive from shows, `monitor` or `best` or a hook, is its own
    interface: who takes it means it.
    """
    participant = link_of(callback).participant
    taken = {name for name in dir(participant) if not name.startswith("__")}
    taken |= {"host", "session", "record", "state", "run", "name", "seat", "link", "participant"}
    taken |= {name for cls in (Link, RunView, Seat, Session) for name in vars(cls)}
    seat = link_of(callback).__dict__.get("seat")
    taken |= {name for one in (seat, getattr(seat, "view", None)) if one for name in vars(one)}
    taken = {name for name in taken if not name.startswith("__")} | PEOPLE_TAKE
    return sorted(name for name in taken if not _shown(type(callback), name))


def _shown(cls, name):
    """Whether a name is an argument, an attribute or a method of the class, for people."""
    return not name.startswith("_") and hasattr(cls, name) and name not in {"host", "session"}


def taking(cls, names, way):
    """A subclass that takes names in one of the ways."""

    def method(self, *args, **kwargs):
        return "theirs"

    if way == "method":
        return type(cls.__name__, (cls,), {**dict.fromkeys(names, method), "__module__": "users"})
    if way == "class attribute":
        return type(cls.__name__, (cls,), {**dict.fromkeys(names, 7), "__module__": "users"})

    class Taking(cls):
        def __init__(self, *args, **kwargs):
            if way == "attribute set before":
                self.take()
            super().__init__(*args, **kwargs)
            if way == "attribute set after":
                self.take()

        def take(self):
            for name in names:
                setattr(self, name, "theirs")

    Taking.__name__ = cls.__name__
    return Taking


def still_theirs(callback, names, way):
    """Whether what a person put there is there after training."""
    if way == "method":
        return all(getattr(callback, name)() == "theirs" for name in names)
    return {getattr(callback, name) for name in names} == {7 if "class" in way else "theirs"}


def check_any_name_is_free(cls, make, trained, way, tmp_path, monkeypatch):
    """Train with a callback and, in another folder, with a subclass that takes all names.

    Then with a copy of it that goes on from its state.

    Args:
        cls: The class.
        make: `make(cls, url)`, a callback of it; an alert goes to `url`.
        trained: `trained(callback)`, what came of a run with it in the current folder.
        way: One of `WAYS`.
    """
    with FakeSlack() as slack:
        for folder in ("plain", "taken"):
            (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / "plain")
        plain = make(cls, slack.url)
        expected = trained(plain)
        names = names_of(plain)
        expected_again, _ = gone_on(plain, trained)

        monkeypatch.chdir(tmp_path / "taken")
        callback = make(taking(cls, names, way), slack.url)
        got = trained(callback)
        got_again, copied = gone_on(callback, trained)

    assert got == expected
    assert got_again == expected_again
    assert still_theirs(callback, names, way)
    assert still_theirs(copied, names, way)


def gone_on(callback, trained):
    """What comes of a copy that goes on from the state of a callback, and the copy.

    A copy is made as a pickle is, out of what `__getstate__` gives.
    """
    copied = copy.deepcopy(callback)
    copied.load_state_dict(callback.state_dict())
    return trained(copied), copied
