"""README, docs and examples: their code runs, their links lead somewhere, nothing is left out."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import peakhold
from house.run_pages import backends, blocks

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT / "src" / "peakhold"
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    + [*DOCS.rglob("*.md")]
)
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def _name(path):
    return path.relative_to(ROOT).as_posix()


# The code


UNITS = [(backend, path) for path in [*PAGES, *SCRIPTS] for backend in sorted(backends(path))]


@pytest.fixture(scope="session")
def outcome():
    """Runs all units of a backend in one process, once; gives the error of one of them."""
    outcomes = {}

    def of(backend, path):
        if backend not in outcomes:
            units = [str(p) for b, p in UNITS if b == backend]
            process = subprocess.run(
                [sys.executable, str(ROOT / "tests" / "house" / "run_pages.py"), *units],
                env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            lines = [json.loads(line) for line in process.stdout.splitlines() if line[:1] == "{"]
            outcomes[backend] = {line["unit"]: line["error"] for line in lines}
            outcomes[backend][None] = process.stderr[-3000:]
        return outcomes[backend].get(str(path), f"never run: {outcomes[backend][None]}")

    return of


@pytest.mark.parametrize(
    ("backend", "path"), UNITS, ids=[f"{_name(path)}-{backend}" for backend, path in UNITS]
)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(outcome, backend, path):
    error = outcome(backend, path)

    assert error is None, error


def test_pages_have_code():
    """A pattern that misses the fences would make every page pass."""
    with_code = {_name(path) for _, path in UNITS}

    assert {"README.md", "CONTRIBUTING.md", "docs/tutorial/first-run.md"} <= with_code
    assert {
        "docs/how-to/custom-callback.md",
        "docs/how-to/loops.md",
        "docs/how-to/callback-list.md",
    } <= with_code
    fences = sum(path.read_text(encoding="utf-8").count("```python") for path in PAGES)
    assert fences == sum(
        kind == "python" for path in PAGES for kind, *_ in blocks(path.read_text(encoding="utf-8"))
    )


# The reference


def _all_of(module):
    for node in ast.parse((SOURCE / module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(module)


PUBLIC = {
    "peakhold": [name for name in _all_of("__init__.py") if not name.startswith("__")],
    "peakhold.keras": _all_of("keras/__init__.py"),
    "peakhold.tf_keras": _all_of("tf_keras/__init__.py"),
    "peakhold.errors": _all_of("errors.py"),
    "peakhold.extend": _all_of("extend.py"),
    "peakhold.sinks": _all_of("sinks/__init__.py"),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module):
    text = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))

    missing = [name for name in PUBLIC[module] if not re.search(rf"`(?:[\w.]+\.)?{name}\b", text)]

    assert missing == []


def _arguments(name):
    """Names of the constructor's arguments of one of our classes."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == name:
                for one in node.body:
                    if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                        arguments = one.args
                        names = arguments.posonlyargs + arguments.args[1:] + arguments.kwonlyargs
                        return [argument.arg for argument in names]
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau", "CSVLogger", "TerminateOnNaN",
        "LearningRateScheduler", "RemoteMonitor", "SwapEMAWeights", "TensorBoard", "Batches",
        "LoopHost", "SlackAlert", "Alert", "RunRecord",
    ],
)  # fmt: skip
def test_the_reference_names_every_argument(name):
    text = (DOCS / "reference" / "callbacks.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{name}`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None

    missing = [one for one in _arguments(name) if f"`{one}`" not in section.group(1)]

    assert missing == []


def _advice_codes():
    trees = [
        ast.parse((SOURCE / "advice" / name).read_text(encoding="utf-8"))
        for name in ("rules.py", "folders.py")
    ]
    return {
        node.args[0].value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Advice"
    }


def test_the_table_of_advice_is_the_rules():
    text = (DOCS / "reference" / "advice.md").read_text(encoding="utf-8")

    assert set(re.findall(r"^\| (E\d+) \|", text, re.MULTILINE)) == _advice_codes()


def _committed():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:  # an unpacked archive
        return [p for p in ROOT.rglob("*") if p.is_file() and not set(p.parts) & {".git", ".venv"}]
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _texts():
    for path in _committed():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_advice_is_named_by_codes_that_exist():
    """`K-E7` is a row of the differences from Keras, and not advice."""
    known = _advice_codes()
    assert {"E2", "E6"} <= known

    unknown = {
        f"{_name(path)}: {code}"
        for path, text in _texts()
        if path.suffix in {".md", ".py"} and path != pathlib.Path(__file__)
        for code in re.findall(r"silence\(\"(\w+)\"", text)
        + (re.findall(r"(?<![\w-])E\d{1,2}\b", text) if path.suffix == ".md" else [])
        if code not in known
    }

    assert unknown == set()


MACHINE_PATHS = re.compile(r"(?<![\w.}>*-])/(?:work|root|home/\w+|Users/\w+|tmp/\w+)\b")


def test_no_file_holds_a_path_of_somebodys_machine():
    found = {
        f"{_name(path)}: {match.group()}"
        for path, text in _texts()
        for match in MACHINE_PATHS.finditer(text)
    }

    assert found == set()


def test_a_path_of_a_machine_would_be_found():
    folder = str(pathlib.PurePosixPath("/", "home", "somebody"))

    assert MACHINE_PATHS.search(f"see {folder}")
    assert not MACHINE_PATHS.search("docs/work/x and a/tmp/y")


# Links


def _slug(heading):
    """The anchor that GitHub and MkDocs make of a heading."""
    words = re.sub(r"[^\w\s-]", "", heading.strip().lower())
    return re.sub(r"\s", "-", words)


def _anchors(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {_slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        page = (path.parent / target).resolve() if target else path
        if not page.exists() or (anchor and anchor not in _anchors(page)):
            dead.append(link)

    assert dead == []


def test_every_page_is_reached_from_the_index():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = {
        (DOCS / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)]+)\)", text)
    }

    lost = [
        _name(p) for p in DOCS.rglob("*.md") if p.resolve() not in linked and p.name != "index.md"
    ]

    assert lost == []


# What the repository says of itself


def test_differences_name_every_defect_that_is_tested():
    """Each row of the defect tests is a line for users."""
    tests = (ROOT / "tests" / "keras" / "test_defects.py").read_text(encoding="utf-8")
    tested = set(re.findall(r"\"(K-[A-Z]\d+)\"", tests))
    assert len(tested) > 20
    page = (DOCS / "explanation" / "differences-from-keras.md").read_text(encoding="utf-8")

    assert tested - set(re.findall(r"K-[A-Z]\d+", page)) == set()


DEFECTS = DOCS / "explanation" / "keras-defects.md"


def _cited_defects(text):
    """Ids of defects of Keras's, those between the ends of a range included."""
    cited = set(re.findall(r"K-[A-Z]\d+", text))
    for letter, first, last in re.findall(r"K-([A-Z])(\d+) to K-\1(\d+)", text):
        cited |= {f"K-{letter}{number}" for number in range(int(first), int(last) + 1)}
    return cited


def test_every_defect_that_is_cited_is_told():
    told = re.findall(r"^\| (K-[A-Z]\d+) \|", DEFECTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(told) > 50 and len(told) == len(set(told))

    untold = {
        f"{_name(path)}: {cited}"
        for path, text in _texts()
        if path.suffix in {".md", ".py"}
        for cited in _cited_defects(text) - set(told)
    }

    assert untold == set()


def test_a_range_of_defects_cites_those_between():
    cited = _cited_defects("K-" + "X9 to K-" + "X11; K-" + "Y1")

    assert cited == {"K-" + one for one in ("X9", "X10", "X11", "Y1")}


def test_sections_of_a_page_that_code_cites_are_there():
    cited = {
        (_name(path), page, re.sub(r"\s+", " ", section))
        for path, text in _texts()
        if path.suffix == ".py"
        for page, section in re.findall(r"\b(docs/[\w/-]+\.md), \"([^\"]+)\"", text)
    }
    assert len(cited) >= 2

    assert {one for one in cited if _slug(one[2]) not in _anchors(ROOT / one[1])} == set()


def test_the_commands_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"\bmake (\w+)\b", readme))

    assert {"demo", "test"} <= commands
    assert {c for c in commands if not re.search(rf"^{c}:", makefile, re.MULTILINE)} == set()


def test_the_changelog_has_the_version():
    assert f"## {peakhold.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
