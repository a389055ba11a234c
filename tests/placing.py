"""Whether a message speaks of what its reader has: looked at for all that is said in every test.

Who calls `fit` has no `CallbackList(...)` to pass something to, and who writes a loop has no
`compile`. `Placing` stands in the place of the functions through which hints, warnings and printed
lines go; it looks at the stack for where the message came about. What is raised elsewhere, as by a
constructor, is for both.
"""

import re
import sys
from pathlib import Path

import peakhold
from peakhold import errors, speech

PACKAGE = Path(peakhold.__file__).parent
LISTS = {
    str(PACKAGE / "runtime" / "loop_list.py"),
    str(PACKAGE / "callbacks" / "callback_list.py"),
    str(PACKAGE / "keras" / "fit" / "callback_list.py"),
}
OF_FIT = re.compile(
    r"\bcompiled?\b|`fit`|\b(?:to|in|this|of|call) fit\b|\bfit\(|validation_(?:data|split|freq|steps)|steps_per_epoch|\bBatches\("
    r"|production_callbacks"
)
OF_LOOPS = re.compile(
    r"(?<!\.)\bCallbackList\(|LoopHost|\byour loop\b|on_epoch_end\(epoch"
    r"|on_train_begin\(\)|first_epoch=|extra=|\bhost="
)
FORBIDDEN = {"fit": OF_LOOPS, "loop": OF_FIT}


class Placing:
    """Takes the place of what hints, warnings and lines go through."""

    def __init__(self):
        self.seen = []
        """Where it came about (`fit`, `loop`), and the text."""
        self._with_hint, self._say = errors._with_hint, speech.say

    def with_hint(self, text, hint):
        self._look(hint or "")
        return self._with_hint(text, hint)

    def say(self, text, *rest):
        self._look(text)
        return self._say(text, *rest)

    def warned(self, message):
        """For `pointing.py`, through which warnings go."""
        self._look(str(message))

    def _look(self, text):
        where = place_of(sys._getframe(2))
        if where is not None and text:
            self.seen.append((where, text))

    @property
    def wrong(self):
        """What speaks of something that its reader does not have."""
        return sorted({(where, text) for where, text in self.seen if FORBIDDEN[where].search(text)})


def place_of(frame):
    """`fit` or `loop`; None where neither runs."""
    where = None
    while frame is not None:
        file = frame.f_code.co_filename
        if "/keras/src/" in file and file.endswith("trainer.py"):
            return "fit"
        if file in LISTS:
            where = "loop"
        frame = frame.f_back
    return where
