"""The contract of a host is all that is asked of one, and all of it is asked."""

import ast
import inspect
import re
from pathlib import Path

from peakhold.host.contract import Host
from peakhold.host.loop import LoopHost
from peakhold.keras import KerasHost

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "peakhold"
HOLDERS = {"host", "trained", "_host", "_peakhold_host"}
"""What a host is called where it is asked."""
FOR_USERS = {"snapshot"}
"""Asked by callbacks of a user's own: docs/how-to/act-on-training.md."""

METHODS = {name for name, _ in inspect.getmembers(Host, inspect.isfunction) if name[0] != "_"}


def modules():
    """What asks a host: not hosts, nor Keras's own, which knows more of one; alerts know of URLs."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if (
            not name.startswith(("host/", "keras/", "tf_keras/", "demo/", "alerts/"))
            or name == "keras/fit/callback_list.py"
        ):
            yield name, path.read_text("utf-8")


def is_host(node):
    """Whether an expression is a host, by its name."""
    return getattr(node, "attr", getattr(node, "id", None)) in HOLDERS


def asked(source):
    """Names of what is asked of a host, by attribute or by `getattr` and its like."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_host(node.value):
            yield node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "hasattr"}:
            if is_host(node.args[0]):
                yield f"{node.func.id}({ast.unparse(node.args[1])})"


def test_what_is_asked_of_a_host_stands_in_its_contract():
    found = {(name, what) for name, source in modules() for what in asked(source)}

    assert len(found) > 40
    assert {(name, what) for name, what in found if what not in METHODS} == set()


def test_what_does_not_stand_there_would_be_found():
    source = "run.host.secret()\nself._peakhold_host.parts()\ngetattr(host, 'more', None)\nx.y"

    assert set(asked(source)) - METHODS == {"secret", "getattr('more')"}


def test_all_that_stands_in_the_contract_is_asked():
    """By us, or by users as the docs show them."""
    everywhere = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    unasked = {
        name
        for name in METHODS - FOR_USERS
        if not re.search(rf"\b(host|trained|_peakhold_host|host_of\(self\))\.{name}\b", everywhere)
    }

    assert unasked == set()
    how_to = (ROOT / "docs" / "how-to" / "act-on-training.md").read_text("utf-8")
    assert all(f"self.host.{name}(" in how_to for name in FOR_USERS)


def test_both_hosts_take_what_the_contract_says():
    for host in (LoopHost, KerasHost):
        for name in METHODS:
            theirs = inspect.signature(getattr(host, name)).parameters
            assert list(theirs) == list(inspect.signature(getattr(Host, name)).parameters), name
