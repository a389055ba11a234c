import pytest

from docstrings import modules, run_examples


@pytest.mark.parametrize("name", modules(keras=False))
def test_the_examples_of_docstrings_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_examples(name)


def test_the_callbacks_have_examples():
    names = [n for n in modules(keras=False) if n.startswith("peakhold.callbacks.")]

    assert sum(run_examples(name) for name in names) >= 30
