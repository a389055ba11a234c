"""What may stand where a file of ours belongs: each function of `CASES` puts it there.

None of them is a file that we wrote, whole and in its place. `STANDS` holds those that are something
else than a file, `HOLDS` the files that have other bytes.
"""

import os
import socket
import stat

SECRET = b"the secret outside " * 40
STANDS, HOLDS = {}, {}


def stands(function):
    STANDS[function.__name__] = function
    return function


def _holding(change):
    def rewrite(path):
        path.write_bytes(change(path.read_bytes()))

    return rewrite


for _label, _change in {
    "empty": lambda content: b"",
    "one_byte": lambda content: content[:1],
    "cut": lambda content: content[:-1],
    "halved": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0",
    "twice": lambda content: content * 2,
    "nuls": lambda content: b"\0" * len(content),
    "not_utf8": lambda content: b"\xff\xfe" * (len(content) // 2 + 1),
    "utf16": lambda content: content.decode("latin-1").encode("utf-16"),
    "one_bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a_list": lambda content: b"[]\n",
    "a_number": lambda content: b"3\n",
    "a_huge_number": lambda content: b"9" * 100_000,
    "1e400": lambda content: b'{"pid":1e400,"format":1e400,"step":1e400}',
    "nan": lambda content: b'{"pid":NaN,"format":NaN,"step":NaN}',
    "negative": lambda content: b'{"pid":-1,"host":-1,"since":-1,"format":-1,"step":-1}',
    "duplicate_keys": lambda content: b'{"pid":1,"pid":2,"format":1,"format":1}',
    "deep": lambda content: b"[" * 100_000 + b"]" * 100_000,
    "deep_and_named": lambda content: b'{"pid":' * 100_000,
    "html": lambda content: b"<!DOCTYPE html>\n<html></html>\n",
    "8_tib_of_header": lambda content: (8 << 40).to_bytes(8, "little") + content[8:],
    "most_of_a_header": lambda content: b"\xff" * 8 + content[8:],
}.items():
    HOLDS[_label] = _holding(_change)


def apparent_size(path):
    """Sparse: as large as a file can be here, in some kilobytes."""
    for power in (43, 42, 40):
        try:
            os.truncate(path, 1 << power)
        except OSError:
            continue
        return


HOLDS["apparent_size"] = apparent_size


def _aside(path):
    """The same file outside of the folder, or another where there is none."""
    outside = path.parent.parent.parent / "outside"
    outside.write_bytes(path.read_bytes() if path.is_file() else SECRET)
    path.unlink(missing_ok=True)
    return outside


@stands
def folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


@stands
def folder_with_something_in_it(path):
    folder(path)
    (path / "theirs").write_bytes(SECRET)


@stands
def fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@stands
def unix_socket(path):
    path.unlink(missing_ok=True)
    here = os.getcwd()
    os.chdir(path.parent)  # its name is short, its path may be too long
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


@stands
def link_to_nothing(path):
    outside = _aside(path)
    outside.unlink()
    path.symlink_to(outside)


@stands
def link_to_itself(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


@stands
def link_out_of_the_folder(path):
    path.symlink_to(_aside(path))


@stands
def link_to_a_device(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


if os.geteuid() == 0:  # nobody else can make one

    @stands
    def device(path):
        path.unlink(missing_ok=True)
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/zero


CASES = {**STANDS, **HOLDS}
