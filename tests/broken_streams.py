"""What `sys.stdout` may be where a program runs: no console, a broken one, one that lacks letters."""

import io

__all__ = ["STREAMS", "narrow"]


class Raises(io.StringIO):
    """A stream of somebody's own, which is broken."""

    encoding = "utf-8"

    def write(self, text):
        raise RuntimeError("no")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def narrow(encoding):
    return lambda: io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


STREAMS = {
    "none": lambda: None, "closed": closed, "raises": Raises, "ascii": narrow("ascii"),
    "cp1252": narrow("cp1252"), "unknown letters": narrow("latin-1"),
}  # fmt: skip
"""By kind, what makes one."""
