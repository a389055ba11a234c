import pytest

from docstrings import modules, run_examples


@pytest.mark.parametrize("name", modules(keras=True))
def test_the_examples_of_docstrings_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_examples(name)
