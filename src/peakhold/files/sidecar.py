"""What is known of the files beside it: lines of JSON, one file per template and folder.

    {"format": 2}
    {"template": "w_{epoch}.keras", "name": "w_1.keras", "over": null, "checksum": "…", …}
    {"template": "w_{epoch}.keras", "name": "w_2.keras", "over": null, "checksum": "…", …}

Rules of this file:

1. An entry counts only for the file whose checksum it holds. A new entry is on disk *before* its
   file gets its final name, and says which one (`over`) is that of the file that is still there. So
   after a crash between the two, whichever file stands under the name, its entry is true.
2. A sidecar that is damaged or missing costs knowledge, never a file. What is no entry of ours, to
   the last member, is passed over and told; what else there is counts. A line that a kill has torn
   is no damage. What a later form says is not for us to write over: that is an error.
3. What has no valid entry was not written by Peakhold, or was changed since: it is never deleted.
4. A file is deleted before its entry is: an entry without a file is harmless, and goes when all is
   written anew; a file without an entry would be a stranger's for ever.
5. An entry is one line more, whatever there is already. When half of the lines say nothing any
   more, or some were damaged, all is written anew, as a new file.
6. Where the worker's number is in the template, each worker has a sidecar of its own, and waits for
   nobody. One of all workers, as earlier versions wrote it, is read until there is an own one.
7. Whoever writes holds the kernel's lock on the file, until what the entry is for has its name:
   other processes' entries are read first, and stay. Templates that differ only in their formats
   share a sidecar, and leave each other's entries alone.
8. It is never the newest file beside a model: who looks for that by time means the model.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, final

from peakhold import files
from peakhold.disk.disk import Disk
from peakhold.disk.path_disk import PathDisk
from peakhold.files.newest import OLDER_NS
from peakhold.files.open_files import DISK, HeldDescriptors, holding, shortened
from peakhold.files.saved_file import (
    LARGEST,
    SavedFile,
    entry_from_json,
    entry_to_json,
    infos_of,
)
from peakhold.files.standing import check_replaceable

__all__ = ["ASIDE", "SUFFIX", "SavedFile", "Sidecar", "infos_of", "is_aside", "sidecar_name"]

FORMAT: Final = 2
SUFFIX: Final = ".peakhold.json"
ASIDE: Final = "previous"
"""The folder of what was set aside. A suffix alone would not do: `*.keras` finds what ends in it,
and `load_model` opens nothing else."""
_EARLIER: Final = ".previous"
"""What names of files that were set aside ended in, before there was a folder for them."""
_LARGEST: Final = 64 << 20  # bytes; a sidecar of ten thousand files has about 5 MB
_SPARE: Final = 64  # lines that may say nothing
_SENSELESS: Final = 10_000  # lines that say nothing: what comes behind them is not looked at
_NESTED: Final = 100  # braces in a line; those of our lines are few
_BEGINS: Final = b'{"template": '
_PATIENCE_S: Final = 60.0


def sidecar_name(plain: str) -> str:
    """The name of the sidecar of a template without braces."""
    return shortened(plain, len(SUFFIX)) + SUFFIX


def is_aside(name: str, suffix: str) -> bool:
    """Whether an entry is of a file that was set aside.

    Example:
        >>> [is_aside(n, ".bin") for n in ("previous/w.bin", "w.previous-2.bin", "w.bin")]
        [True, True, False]
    """
    stem, _, number = name.removesuffix(suffix).rpartition("-")
    earlier = (stem if number.isdecimal() else name.removesuffix(suffix)).endswith(_EARLIER)
    return os.sep in name or "/" in name or earlier


@final
class Sidecar:
    """The sidecar of one template in one folder.

    Args:
        folder: Where the files are.
        template: Base name of the template, braces and all.
        plain: The template without braces, for the sidecar's own name.
        disk: The calls to the system. Defaults to the real ones.
        tell: Told in words, whenever it is found, what is wrong with it.
        of_all: `plain` of the sidecar that all workers had; None if this is that one.
    """

    def __init__(
        self,
        folder: str,
        template: str,
        plain: str,
        *,
        disk: Disk | None = None,
        tell: Callable[[str], Any] | None = None,
        of_all: str | None = None,
    ) -> None:
        self.folder, self.template, self._of_all = folder, template, of_all
        self._disk = DISK if disk is None else disk
        self.path = os.path.join(folder, sidecar_name(plain))
        self._tell = tell
        self._identified: dict[tuple[str, int, int], SavedFile | None] = {}
        self._forget()
        self._open: tuple[HeldDescriptors, int, int] | None = None
        self._distrusted = False
        self._look()

    def _forget(self) -> None:
        self._entries: dict[str, list[SavedFile]] = {}
        self._templates: dict[str, str] = {}
        self._newest = 0  # the largest `order`
        self._lines = 0
        self._read_up_to: tuple[int, int] = (-1, 0)  # inode and offset
        self._is_current = False

    # Reading

    def _look(self) -> None:
        """Read it without the lock."""
        folder, name = os.path.split(os.path.realpath(self.path))
        with contextlib.suppress(OSError):  # whoever has to write it is told
            self._read(folder, name)

    def check(self) -> None:
        """See that it can be read and added to, or made.

        Raises:
            OSError: If not.
        """
        folder, name = os.path.split(os.path.realpath(self.path))
        with contextlib.suppress(FileNotFoundError):
            self._read(folder, name, by=self._disk.open_log)

    def _read(self, folder: str, name: str, by: Callable[[str, int], int] | None = None) -> None:
        with holding(self._disk, folder) as (held, root):
            there = self._disk.look(name, root)
            if there is None:
                self._take_of_all()
                return
            check_replaceable(there, self.path)
            fd = held.hold((by or self._disk.open)(name, root))
            self._catch_up(fd, self._disk.status(fd))

    def _catch_up(self, fd: int, status: os.stat_result) -> None:
        """Take in what was written since it was read last."""
        place, offset = self._read_up_to
        if (place, status.st_size >= offset) != (status.st_ino, True):
            self._forget()
            offset = 0
        if status.st_size - offset > _LARGEST:
            self._damaged(f"it has {status.st_size} bytes")
            return
        content = self._bytes(fd, offset, status.st_size - offset)
        whole = content.rfind(b"\n") + 1
        if offset:
            self._take_lines(io.BytesIO(content[:whole]))
        else:
            self._begin(content, whole)
        self._read_up_to = status.st_ino, offset + whole

    def _damaged(self, why: str) -> None:
        self._distrusted = True
        if self._tell is None:
            return
        self._tell(
            f"{self.path} is damaged: {why}. What else it tells is used, and it is written anew at "
            "the next save. Files of which it tells nothing stay, and are not taken for the best."
        )

    def _bytes(self, fd: int, offset: int, size: int) -> bytes:
        data = bytearray(size)
        done = 0
        while done < size:
            count = self._disk.read_into(fd, [memoryview(data)[done:]], offset + done)
            if not count:
                break
            done += count
        return bytes(data[:done])

    def _begin(self, content: bytes, whole: int) -> None:
        """Take in what there is from its beginning.

        Raises:
            OSError: If it is of a form that is not known yet.
        """
        lines = io.BytesIO(content[:whole])
        first = _from_json(lines.readline())
        form = first.get("format") if isinstance(first, dict) else None
        if type(form) is int and form > FORMAT:
            name = os.path.basename(self.path)
            said = f"{name} has format {form}, which a later version of Peakhold has written"
            raise OSError(errno.EINVAL, said, self.path)
        if type(form) is int and form == FORMAT:
            self._is_current = True
            self._take_lines(lines)
            return
        raw = _from_json(content)
        if isinstance(raw, dict) and raw.get("format") == 1 and isinstance(raw.get("files"), dict):
            self._take_first_form(raw)
        elif content:
            self._take_lines(lines, why="its first line is not a sidecar's")
        else:  # it has just been made, or a kill came before its first line
            self._take_of_all()

    def _take_of_all(self) -> None:
        """Take in what the sidecar of all workers says; of others' names nothing is ever asked."""
        if self._of_all is None:
            return
        of_all = Sidecar(self.folder, self.template, self._of_all, disk=self._disk, tell=self._tell)
        self._entries, self._templates = of_all._entries, of_all._templates
        self._newest = of_all._newest

    def _take_first_form(self, raw: dict[str, Any]) -> None:
        n_bad = 0
        for name, entries in raw["files"].items():
            for entry in reversed(entries if isinstance(entries, list) else [None]):
                n_bad += not self._take(name, raw.get("template"), entry, keep_all=True)
        if n_bad:
            self._damaged(f"entries that are none: {n_bad}")

    def _take_lines(self, lines: Iterable[bytes], why: str | None = None) -> None:
        """Take in entries; where too much says nothing, the rest is not looked at.

        Args:
            lines: What comes next.
            why: What is damaged already, if anything is.
        """
        self._identified.clear()
        n_bad = 0
        for line in lines:
            self._lines += 1
            raw = _from_json(line)
            is_entry = isinstance(raw, dict) and self._take(
                raw.get("name"), raw.get("template"), raw
            )
            if not is_entry and not _is_torn(line):
                n_bad += 1
                if n_bad > _SENSELESS:
                    break
        if why is None and n_bad:
            why = f"lines that are no entries: {n_bad}"
        if why is not None:
            self._damaged(why)

    def _take(self, name: Any, template: Any, raw: Any, *, keep_all: bool = False) -> bool:
        """Take in an entry; False if it is none."""
        entry = entry_from_json(raw)
        if entry is None or not _is_below(name) or not isinstance(template, str):
            return False
        over = raw.get("over")
        old = [e for e in self._entries.get(name, ()) if keep_all or e.checksum == over]
        self._add(name, template, [entry, *(e for e in old if e.checksum != entry.checksum)])
        return True

    def _add(self, name: str, template: str, entries: list[SavedFile]) -> None:
        self._entries[name], self._templates[name] = entries, template
        self._newest = max(self._newest, entries[0].order)

    # Asking

    def entry_for(self, name: str) -> SavedFile | None:
        """The entry of the file that stands under `name` now; reads the file to know."""
        entries = self._entries.get(name)
        if not entries:
            return None
        digest = files.hash_file(os.path.join(self.folder, name))
        return next((entry for entry in entries if entry.checksum == digest), None)

    def entry_by_look(self, name: str) -> SavedFile | None:
        """Like `entry_for`, but a file of the recorded size and time is believed unread.

        That is enough to count what there is, not to delete it.
        """
        try:
            status = os.stat(os.path.join(self.folder, name))
        except OSError:
            return None
        sized = [e for e in self._entries.get(name, ()) if e.size == status.st_size]
        if not sized or not stat.S_ISREG(status.st_mode):
            return None
        known = next((e for e in sized if e.mtime_ns == status.st_mtime_ns), None)
        if known is not None:
            return known
        key = name, status.st_size, status.st_mtime_ns  # copied, or of an old sidecar: read it once
        if key not in self._identified:
            self._identified[key] = self.entry_for(name)
        return self._identified[key]

    def entries(self, name: str) -> list[SavedFile]:
        """All entries of a name, the newest first; at most one of them is of the file there."""
        return list(self._entries.get(name, ()))

    def names(self) -> list[str]:
        """Names of this template that have entries, sorted."""
        return sorted(name for name, whose in self._templates.items() if whose == self.template)

    def forget(self, name: str) -> None:
        """A file was deleted: its name is looked at no more."""
        self._entries.pop(name, None)
        self._templates.pop(name, None)

    # Writing

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, with all that other processes have recorded; may be nested.

        Raises:
            OSError: If it cannot be written, or another process does not let it go.
        """
        if self._open is not None:
            yield
            return
        folder, name = os.path.split(os.path.realpath(self.path))
        while self._open is None:
            held = HeldDescriptors(self._disk)
            try:
                self._open = self._lock(held, held.open_folder(folder), name)
            finally:
                if self._open is None:
                    held.release()
        try:
            yield
        finally:
            self._open[0].release()
            self._open = None

    def _lock(
        self, held: HeldDescriptors, root: int, name: str
    ) -> tuple[HeldDescriptors, int, int] | None:
        """The open, locked, current sidecar; None if it must be opened once more."""
        check_replaceable(self._disk.look(name, root), self.path)
        fd = self._disk.open_log(name, root)
        held.open.append(fd)
        until, is_locked = time.monotonic() + _PATIENCE_S, True
        while True:
            try:
                self._disk.lock(fd)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(errno.ETIMEDOUT, "it stays locked", self.path) from None
                time.sleep(0.001)
                continue
            except OSError:  # no locks here
                is_locked = False
            break
        status = self._disk.status(fd)
        if self._disk.identity(name, root) != (status.st_dev, status.st_ino):
            return None  # written anew meanwhile
        if (status.st_ino, status.st_size) != self._read_up_to:
            self._catch_up(fd, status)
        if self._is_current and not self._distrusted and self._lines <= self._worth():
            return held, fd, root
        if isinstance(self._disk, PathDisk) or not is_locked:
            held.close(fd)  # what is open cannot be replaced everywhere
        self._write_anew()
        return None

    def _worth(self) -> int:
        """Lines that it may have."""
        return 2 * len(self._entries) + _SPARE

    def _write_anew(self) -> None:
        """Commit it as a new file, without what says nothing any more."""
        lines, at = [{"format": FORMAT}], self.folder
        for name in sorted(self._entries):
            if os.path.lexists(os.path.join(at, name)):
                over = None
                for entry in reversed(self._entries[name]):
                    lines.append(self._line(name, entry, over))
                    over = entry.checksum
        content = b"".join(_to_json(line) for line in lines)
        files.commit(self.path, lambda file: file.write(content), disk=self._disk)
        self._forget()
        self._distrusted = False

    def _line(self, name: str, entry: SavedFile, over: str | None) -> dict[str, Any]:
        template = self._templates.get(name, self.template)
        return {"template": template, "name": name, "over": over, **entry_to_json(entry)}

    def record(
        self, name: str, entry: SavedFile, *, standing: SavedFile | None = None, after: int = 0
    ) -> SavedFile:
        """Add an entry, durably, and keep the one of the file that stands there now.

        Args:
            name: Name of the file, below the folder.
            entry: What is about to stand under it. It gets its `order`, if it has none.
            standing: The valid entry of the file it replaces; None if there is none.
            after: An `order` that the new one must come after.

        Returns:
            The entry as recorded.
        """
        with self.locked():
            if not entry.order:
                entry = replace(entry, order=min(1 + max(after, self._newest), LARGEST))
            if standing is not None and standing.checksum == entry.checksum:
                standing = None  # whichever of the two stands there, the new entry is true
            over = None if standing is None else standing.checksum
            self._templates[name] = self.template
            self._append(_to_json(self._line(name, entry, over)), entry.mtime_ns)
            old = [] if standing is None else [standing]
            self._add(name, self.template, [entry, *old])
        return entry

    def _append(self, line: bytes, mtime_ns: int | None) -> None:
        if self._open is None:
            raise RuntimeError("only under the lock")
        _, fd, root = self._open
        size = self._disk.seek(fd, 0, os.SEEK_END)
        torn = size > self._read_up_to[1]
        data = memoryview(b"\n" * torn + line)
        try:
            rest = data
            while rest:
                rest = rest[self._disk.write(fd, rest) :]
        except BaseException:
            with contextlib.suppress(OSError):
                self._disk.truncate(fd, size)
            raise
        now = time.time_ns() if mtime_ns is None else mtime_ns
        with contextlib.suppress(OSError):
            name = os.path.basename(os.path.realpath(self.path))
            self._disk.set_times(name, root, now - OLDER_NS, now - OLDER_NS)
        try:
            self._disk.sync(fd)
        except OSError:
            self._distrusted = True  # the kernel may have dropped lines that were there
            raise
        self._lines += 1 + torn
        self._read_up_to = self._read_up_to[0], size + len(data)

    # What stood there

    def set_aside(self, name: str, suffix: str) -> str | None:
        """Keep the file under `name` before it is replaced: `best.keras` as `previous/best.keras`.

        At most one file of ours is kept aside for a name, the better one if both were ranked by the
        same metric, else the newer; a file that is not ours keeps its place, and gets one of its
        own.

        Args:
            name: Base name of the file that is about to be replaced.
            suffix: Its suffix, `.weights.h5` included.

        Returns:
            The name it is kept under, below the folder; None if a better one is kept aside already.
        """
        standing = self.entry_for(name)
        inside, held = self._aside_folder(), None
        aside = os.path.join(inside, name)
        for number in itertools.count(2):
            if not os.path.lexists(os.path.join(self.folder, aside)):
                held = None
                break
            held = self.entry_for(aside)
            if held is None or standing is None:
                if held is standing and self._is_same(name, aside):
                    return aside  # by a run that was killed before its save
                end = f"-{number}{suffix}"
                stem = shortened(name.removesuffix(suffix), len(end))
                aside = os.path.join(inside, stem + end)
                continue
            if standing.is_worse_than(held):
                return None
            break
        files.make_folder(os.path.join(self.folder, inside), disk=self._disk)
        if standing is not None:
            self.record(aside, standing, standing=held)
        files.keep_aside(
            os.path.join(self.folder, name), os.path.join(self.folder, aside), disk=self._disk
        )
        return aside

    def _aside_folder(self) -> str:
        """A folder of this name; somebody may have a file that is called so."""
        for number in itertools.count(2):
            name = ASIDE if number == 2 else f"{ASIDE}-{number - 1}"
            path = os.path.join(self.folder, name)
            if os.path.isdir(path) or not os.path.lexists(path):
                return name
        raise AssertionError

    def _is_same(self, name: str, other: str) -> bool:
        """Whether two files hold the same content."""
        digest = files.hash_file(os.path.join(self.folder, name))
        return digest is not None and digest == files.hash_file(os.path.join(self.folder, other))


def _from_json(text: bytes) -> Any:
    """What it says; None if that is nothing."""
    try:
        return json.loads(text)
    except ValueError:
        return None
    except RecursionError:
        if max(text.count(b"["), text.count(b"{")) > _NESTED:
            return None
        raise  # nothing of ours is nested: it is the caller's stack that is full


def _is_torn(line: bytes) -> bool:
    """Whether a kill has torn it: it begins like one of ours, and breaks off."""
    text = line.rstrip(b"\r\n")
    begins = text.startswith(_BEGINS) or _BEGINS.startswith(text)
    return begins and bool(text) and not text.endswith(b"}")


def _is_below(name: Any) -> bool:
    """Whether it is the name of a file in the folder, or in one of its folders."""
    if not isinstance(name, str) or "\0" in name or os.path.splitdrive(name)[0]:
        return False
    try:
        os.fsencode(name)
    except UnicodeError:
        return False
    return not set(name.replace(os.sep, "/").split("/")) & {"", os.curdir, os.pardir}


def _to_json(line: dict[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"
