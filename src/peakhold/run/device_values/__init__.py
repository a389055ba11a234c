"""Numbers of a metric as a loop has them, often still on a device: copied at once, read later.

Problem. To read a value is to wait for the device, and a loop that waits at each batch trains at
half the speed. To keep the value instead is to keep memory that the loop may write again: PyTorch's
`+=`, JAX's donated buffers.

Solution. What is logged is copied at once, where it lies, without waiting (`taken`). A few hundred
copies become one array on the device (`Block`): small things cost far more than their bytes. It is
read when somebody needs the numbers.

Rules of this package:

1. `taken` and `Block` never wait. What lies in memory that a processor reads directly, and is
   there already, is read instead of copied: a float needs no device.
2. A framework is known by its own types, and looked up in `sys.modules`: whoever has a value of it
   has imported it.
3. What is no number is refused where it is logged, at the user's line, not when it is read.
"""

from __future__ import annotations

from peakhold.run.device_values.kinds import BLOCK, Block, Taken, taken
from peakhold.run.device_values.refusing import NotOneNumberError

__all__ = ["BLOCK", "Block", "NotOneNumberError", "Taken", "taken"]
