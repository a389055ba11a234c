"""Numbers of a metric as a loop has them, often still on a device: copied at once, read later.

Problem. To read a value is to wait for the device, and a loop that waits at each batch trains at
half the speed. To keep the value instead is to keep memory that the loop may write again: PyTorch's
`+=`, JAX's donated buffers.

Solution. A `Tape` takes each value where it lies, without waiting: the numbers of a metric that
have one dtype and lie on one device are written into one small array there, a `Roll`. When it is
full it is a block, and is read when somebody needs the numbers, or when that needs no waiting.

Rules of this package:

1. `Tape.add` never waits, and keeps no object of a batch: what a batch leaves behind is a number in
   an array. What lies in memory that a processor reads directly, and is there already, may be read
   instead: a float needs no device.
2. A framework is known by its own types, and looked up in `sys.modules`: whoever has a value of it
   has imported it.
3. What is no number is refused where it is logged, at the user's line, not when it is read.
4. The order is that of the batches, whatever the kinds of their values.
"""

from __future__ import annotations

from peakhold.run.device_values.refusing import NotOneNumberError
from peakhold.run.device_values.rolls import BLOCK
from peakhold.run.device_values.tape import Tape

__all__ = ["BLOCK", "NotOneNumberError", "Tape"]
