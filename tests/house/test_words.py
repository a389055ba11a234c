"""One word, one thing: no two classes of the package bear one name."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "src" / "peakhold"

DROP_INS = {
    "keras/drop_ins.py",
    "tf_keras/drop_ins.py",
    "keras/tensorboard.py",
    "keras/fit/callback_list.py",
}
"""What Keras gets bears the name of what loops get: people change an import, and nothing else."""

SAME_THING: dict[str, str] = {}
"""Names that stand for one thing in two places, each with its reason."""


def classes(package):
    """Where each class, Protocol and alias of a type is defined, by its name without underscores."""
    found = defaultdict(set)
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in _named(node):
                found[name.lstrip("_")].add(path.relative_to(package).as_posix())
    return found


def _named(node):
    if isinstance(node, ast.ClassDef):
        yield node.name
    is_alias = isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
        node.value, ast.Subscript | ast.BinOp
    )
    for target in getattr(node, "targets", [getattr(node, "target", None)]) if is_alias else ():
        if isinstance(target, ast.Name) and target.id.lstrip("_")[:1].isupper():
            if not target.id.isupper():
                yield target.id


def several(found):
    """The names that are defined in several places, but for those that must be."""
    return {
        name: sorted(places)
        for name, places in found.items()
        if len(places - DROP_INS) > 1 and name not in SAME_THING
    }


def test_no_two_classes_bear_one_name():
    assert several(classes(PACKAGE)) == {}


def test_two_would_be_found(tmp_path):
    (tmp_path / "a.py").write_text("class _Held: ...\nclass A: ...")
    (tmp_path / "b.py").write_text("def f():\n    class Held: ...\nPAIR = dict[str, int]")
    (tmp_path / "c.py").write_text("Place = tuple[int, str]\nB: TypeAlias = A | int")
    (tmp_path / "d.py").write_text("class Place: ...\nplace = dict[str, int]")

    assert several(classes(tmp_path)) == {"Held": ["a.py", "b.py"], "Place": ["c.py", "d.py"]}


def test_the_exceptions_are_needed():
    found = classes(PACKAGE)

    assert all(len(found[name]) > 1 for name in SAME_THING)
    assert all(any(path in places for places in found.values()) for path in DROP_INS)
