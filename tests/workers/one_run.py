"""What a loop of two workers must come to, whatever drives it."""

import pytest


def lines_of(path):
    with open(path) as file:
        return file.read().splitlines()


def rows_of_one_run(folder, zero, one, shared):
    """The lines of the log, if two workers' reports are of one run, which sees the data of both.

    The first validates on 16 samples, the second on 24.
    """
    assert zero["local"] != one["local"]
    assert [zero[name] for name in shared] == [one[name] for name in shared]
    of_all = [(16 * a + 24 * b) / 40 for a, b in zip(zero["local"], one["local"], strict=True)]
    assert zero["best"] == pytest.approx(min(of_all), rel=1e-12)
    rows = lines_of(folder / "log.csv")
    assert [row.split(",")[0] for row in rows[1:]] == [str(epoch) for epoch in zero["ran"]]
    return rows
