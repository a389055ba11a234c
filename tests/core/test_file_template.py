import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold._core.file_template import FileTemplate, TemplateError


@pytest.mark.parametrize(
    ("text", "values", "name"),
    [
        ("best.keras", {}, "best.keras"),
        ("e{epoch:02d}.keras", {"epoch": 3}, "e03.keras"),
        ("{epoch}-{val_loss:.2f}.h5", {"epoch": 3, "val_loss": 0.125}, "3-0.12.h5"),
        ("{epoch}-{val_loss:.2f}.h5", {"epoch": 3}, "3-NA.h5"),
        ("{val_loss:.2f}.h5", {"val_loss": [1, 2]}, "NA.h5"),
        ("{{literal}}_{epoch}", {"epoch": 1}, "{literal}_1"),
        ("{run_id!r}", {"run_id": "a"}, "'a'"),
        ("{out/mae:.1f}", {"out/mae": 0.25}, "0.2"),
    ],
)
def test_places_are_filled(text, values, name):
    assert FileTemplate.parse(text).fill(values) == name


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{0}", "{epoch.__class__}", "{logs[0]}", "{epoch:{width}}", "{a!x}"]
)
def test_a_template_is_not_a_program(text):
    with pytest.raises((TemplateError, KeyError)):
        FileTemplate.parse(text).fill({"epoch": 1, "a": 1})


@given(st.text(max_size=30), st.integers(1, 99))
def test_any_text_is_refused_or_filled(text, epoch):
    try:
        template = FileTemplate.parse(text)
    except TemplateError:
        return
    name = template.fill({"epoch": epoch})

    assert isinstance(name, str)
    if template.is_fixed:
        assert name == text.replace("{{", "{").replace("}}", "}")
