"""What a program says a run is to be, and what differs from it when the run is resumed.

Problem. A state comes back, and the program may have been changed meanwhile: another learning rate
in `compile`, another patience. One of the two counts, and nobody sees which.

Solution. Each backup holds what the program said, as text, before anything was put back. On resume
what it says now is compared with that, and not with the state: a rate that a callback has lowered
is no difference. What is on the model after all has been put back is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, final

from peakhold.host.resume import Resumption
from peakhold.runtime.arguments import arguments_of, texts
from peakhold.runtime.callback import link_of

__all__ = ["Configuration", "Texts"]

Texts: TypeAlias = Mapping[str, Mapping[str, str]]
"""By whom it is said to (`fit`, `optimizer`, a callback's name), by argument."""

_FIT, _OPTIMIZER = "fit", "optimizer"


@final
class Configuration:
    """What the program says of a run that begins now; to be made before anything is put back.

    Args:
        resumption: The model that is trained.
        params: `epochs` and `steps`, as far as they are known.
        callbacks: All of the run, by the names that they are filed under.
    """

    def __init__(
        self, resumption: Resumption, params: Mapping[str, Any], callbacks: Mapping[str, Any]
    ) -> None:
        self._resumption = resumption
        fit = {name: params.get(name) for name in ("epochs", "steps")}
        self._now: dict[str, dict[str, str]] = {
            _FIT: texts({**fit, **resumption.fit_settings()}),
            _OPTIMIZER: texts(resumption.program_settings()),
            **{name: arguments_of(one) for name, one in callbacks.items() if link_of(one)},
        }
        self._then: Texts = {}

    def compare_with(self, then: Texts) -> None:
        """This run goes on from one of which the program said this."""
        self._then = then

    def to_save(self) -> Texts:
        """For the backups of this run: what is not known now is what it was."""
        kept = self._resumption.changing_settings()
        before = self._then.get(_OPTIMIZER, {})
        own = {**before, **self._now[_OPTIMIZER]}
        own |= {name: text for name, text in before.items() if name in kept}
        return {**self._now, _OPTIMIZER: own}

    def differences(self, anew: str, epoch: int) -> Iterator[str]:
        """A line for each difference: both values, which counts, and what to do about it.

        To be asked when the model has been put back.

        Args:
            anew: What to do to begin anew.
            epoch: The epoch that the run goes on with, as the loop counts.
        """
        changing = self._resumption.changing_settings()
        live = texts(self._resumption.settings())
        for who, argument, then, now in self._pairs():
            if who != _OPTIMIZER or argument not in changing:
                yield _now_counts(who, argument, then, now, anew)
            elif live.get(argument, now) != now:
                yield (
                    f"{argument} is {now} in this program and {live[argument]} in the backup, "
                    f"which counts. To begin anew, {anew}; to go on with {now}, "
                    f"{self._resumption.how_to_set(argument, now, epoch)}."
                )

    def _pairs(self) -> Iterator[tuple[str, str, str, str]]:
        for who, arguments in self._now.items():
            before = self._then.get(who, {})
            other_batches = before.get("batch_size", "") != arguments.get("batch_size", "")
            for argument, text in sorted(arguments.items()):
                follows = argument == "steps" and other_batches
                if argument in before and before[argument] != text and not follows:
                    yield who, argument, before[argument], text


def _now_counts(who: str, argument: str, then: str, now: str, anew: str) -> str:
    subject = argument if who in {_FIT, _OPTIMIZER} else f"{argument} of {who}"
    if (who, argument) == (_OPTIMIZER, "class"):
        subject = "the class of the optimizer"
    text = (
        f"{subject} is {now} in this program and was {then} in the run that is resumed; "
        f"{now} counts from here on"
    )
    if argument == "mode":  # what it holds for the best was the best the other way round
        return f"{text}, with the best value of before: to begin anew, {anew}."
    return f"{text}."
