"""Runs of a `CSVLogger` in a loop by hand: what is logged is given, what stands in the file is read."""

import csv

import numpy as np

import peakhold


class Logged:
    """A run that has begun, whose epochs end when they are told to."""

    def __init__(self, path, *, start=0, more=(), **arguments):
        self.logger = peakhold.CSVLogger(path, **arguments)
        self.weights = {"w": np.zeros(2)}
        host = peakhold.LoopHost(get_state=lambda: self.weights, set_state=self.weights.update)
        self.loop = peakhold.CallbackList([self.logger, *more], host=host, epochs=99, verbose=0)
        self.epoch = start
        self.loop.on_train_begin()

    def epochs(self, *values, **more):
        for value in values:
            self.loop.on_epoch_begin(self.epoch)
            self.loop.on_epoch_end(self.epoch, {"loss": value, **more})
            self.epoch += 1
        return self

    def end(self):
        self.loop.on_train_end()
        return self


def rows(path, separator=","):
    """The rows as a program reads them that knows CSV."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = list(csv.DictReader(file, delimiter=separator))
    for row in table:
        assert None not in row and None not in row.values(), f"columns shifted: {row}"
    return table


def column(path, name="loss", separator=","):
    return [row[name] for row in rows(path, separator)]
