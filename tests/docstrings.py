"""Every example in a docstring runs."""

import doctest
import importlib
import pathlib
import pkgutil

import peakhold


def modules(*, keras):
    """Names of all modules of the package that need Keras, or that do not."""
    names = [
        module.name
        for module in pkgutil.walk_packages(
            [str(pathlib.Path(peakhold.__file__).parent)], "peakhold.", onerror=lambda name: None
        )
    ]
    of_keras = [n for n in names if n.startswith(("peakhold.keras", "peakhold.demo"))]
    return of_keras if keras else [n for n in ["peakhold", *names] if n not in of_keras]


def run_examples(name):
    """The number of examples in a module, after all of them gave what they say."""
    failed, tried = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS, raise_on_error=False
    )
    assert failed == 0
    return tried
