"""One participant in a run of its own: a list, a loop's host, and moments, without a fit."""

from dataclasses import replace

import numpy as np

import peakhold
from peakhold.extend import Event, Moment, Position
from peakhold.runtime.callback import link_of


class Stage:
    """A run that has begun, with one callback; its model is one array and a learning rate.

    `decide` takes a moment to the participant as far as its decisions, `apply` and `record` carry
    them out: what the session does, one verb at a time.
    """

    def __init__(self, callback, *, epochs=9):
        self.weights, self.rate = {"w": np.zeros(2)}, 0.1
        self.host = peakhold.LoopHost(
            get_state=lambda: self.weights,
            set_state=self.weights.update,
            get_learning_rate=lambda: self.rate,
            set_learning_rate=lambda rate: setattr(self, "rate", rate),
        )
        self.callback = callback
        self.run = peakhold.CallbackList([callback], host=self.host, epochs=epochs, verbose=0)
        self.run.on_train_begin()
        self.run.on_epoch_begin(self.run.initial_epoch)
        self.participant = link_of(callback).participant
        self.logs = {}

    def decide(self, event, epoch=0, *, batch=None, **metrics):
        """What it decides of a moment; nothing is carried out."""
        self.callback.session.new_moment()
        self.logs = dict(metrics)
        moment = Moment(event, Position(epoch, batch), metrics, rates={"": self.rate})
        for fact in tuple(self.participant.news(moment)):
            self.participant.learn(fact)
        measured = self.participant.measure(moment, self.logs)
        self.logs.update(measured.metrics)
        self.moment = replace(
            moment, metrics={**metrics, **measured.metrics}, answers=dict(measured.answers)
        )
        return tuple(self.participant.decide(self.moment))

    def epoch_end(self, epoch, **metrics):
        return self.decide(Event.EPOCH_END, epoch, **metrics)

    def apply(self, *decisions):
        for decision in decisions:
            self.participant.apply(decision, self.moment, self.logs)

    def record(self, *decided):
        self.participant.record(self.moment, self.logs, decided)

    @property
    def stops(self):
        return self.run.stop_training or bool(self.callback.session.stop_reasons)
