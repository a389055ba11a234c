"""What people see of a run: a bar, a line an epoch, or a table in a notebook.

Rules of this package:

1. Nothing here ends training. What a console, a pipe, a notebook or a library raises is caught
   where it is called, once; from there on there are plain lines.
2. A batch costs the look at a clock. What moves is drawn ten times a second at the most, and never
   for more than a hundredth of the time.
3. What others print while there is a bar stands on lines of its own, letter by letter as they wrote
   it. The terminal is never left in a state: after `kill -9` it is as before.
4. Epochs are counted from 0 where they come in, and from 1 where a person reads.
"""

from __future__ import annotations

from peakhold.run.display.choosing import display_for
from peakhold.run.display.display import Display
from peakhold.run.display.progress import Row, RunProgress

__all__ = ["Display", "Row", "RunProgress", "display_for"]
