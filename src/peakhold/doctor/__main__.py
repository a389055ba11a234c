"""`python -m peakhold.doctor FOLDER`.

Exit codes: 0 nothing worse than a notice, 1 a warning, 2 a run there fails, 64 a wrong argument.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Final, NoReturn, final

from peakhold.doctor import diagnose
from peakhold.errors import InvalidArgumentError

__all__ = ["main"]

_USAGE: Final = 64  # EX_USAGE of sysexits.h: 2 says that a run fails
_UNITS: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@final
class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(_USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at a folder, say what was found, and return the exit code.

    Args:
        arguments: In place of the program's own.
    """
    parser = _Arguments(
        prog="python -m peakhold.doctor",
        description="Say whether a run can write to a folder, has room there, and finds it again.",
        epilog="Exit codes: 0 fine, 1 a warning, 2 a run there fails, 64 a wrong argument.",
    )
    parser.add_argument("folder", help="of a run, of checkpoints or of logs; need not be there")
    parser.add_argument("--bytes", type=_bytes, help="of model and optimizer, such as 1.2G")
    parser.add_argument("--measure", action="store_true", help="write 16 MiB, and say how quick")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    try:
        found = diagnose(given.folder, model_bytes=given.bytes, measure=given.measure)
    except InvalidArgumentError as error:
        parser.error(str(error))
    print(json.dumps(found.to_json(), indent=2) if given.json else found)
    return found.exit_code


def _bytes(text: str) -> int:
    """A number of bytes, with `k`, `M`, `G` or `T` behind it."""
    unit = _UNITS.get(text[-1:].lower())
    number = float(text if unit is None else text[:-1]) * (unit or 1)
    if not 0 <= number < float("inf"):
        raise ValueError(text)
    return int(number)


if __name__ == "__main__":
    sys.exit(main())
