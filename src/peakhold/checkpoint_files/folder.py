"""The files of one `ModelCheckpoint` in one run: committed, known by their sidecar, none lost."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Callable as Function
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, final

from peakhold import files
from peakhold._core.file_template import FileTemplate
from peakhold._core.monitor import Criterion, Direction
from peakhold._core.policies.keep import KeepBest, KeepPolicy
from peakhold.checkpoint_files.requests import SaveOutcome, SaveRequest
from peakhold.checkpoint_files.retention import Retention, best_of, files_to_delete
from peakhold.checkpoint_files.template import folder_and_name, static_folder
from peakhold.disk.disk import Disk
from peakhold.errors import SaveError
from peakhold.files.deletion import delete
from peakhold.files.newest import make_newest
from peakhold.files.sidecar import ASIDE, SavedFile, Sidecar, infos_of, is_aside, sidecar_name
from peakhold.files.standing import check_replaceable

__all__ = ["CheckpointFolder", "Retained"]


@final
@dataclass(frozen=True, slots=True)
class Retained:
    """What one clean-up did."""

    deleted: tuple[str, ...] = ()
    """Paths of files that are gone."""
    failures: Mapping[str, str] | None = None
    """By path, why one could not be deleted; None if nothing went wrong. Worth a warning."""
    best: tuple[str, SavedFile] | None = None
    """The best of those that were counted, by what the policy ranks by."""


@final
@dataclass(frozen=True, slots=True)
class Stood:
    """What stood under a name before a save."""

    aside: str | None = None
    """Where it is kept; None if it was this run's own, or there was nothing."""
    was_before: bool = True
    """Whether it was there before this run."""
    rewritten: bool = False
    """Whether it was this run's own, and somebody had changed it: it was replaced."""


_A_TICK_S, _COARSEST_TICK_S = 0.05, 2.5
"""How long to wait for the file system's clock: for a sidecar, for a file that was set aside."""


@final
class CheckpointFolder:
    """Writes the files of one template.

    Args:
        filepath: The template.
        suffix: Its suffix, `.weights.h5` included.
        run_id: The run that writes.
        worker: The worker that writes: what others have saved is not its own.
        disk: The calls to the system. Defaults to the real ones.
        earlier: The folder of an earlier run whose files are this one's own, or None.
    """

    def __init__(
        self,
        filepath: str,
        suffix: str,
        run_id: str,
        *,
        worker: int = 0,
        disk: Disk | None = None,
        earlier: CheckpointFolder | None = None,
    ) -> None:
        self.filepath, self.suffix, self.run_id = filepath, suffix, run_id
        self._runs = {run_id}  # whose files are its own
        self._earlier: tuple[str, ...] = ()  # where those of earlier turns are
        self._worker = worker
        self._disk = disk
        self._order = 0
        self._dynamic, self._template = folder_and_name(filepath)
        self._sidecars: dict[str, Sidecar] = {}
        self._damage: list[str] = []
        self._written: dict[str, SavedFile] = {}
        self._own: set[str] = set()  # paths that this run has written, whatever became of the files
        self._began_ns = time.time_ns()
        if earlier is not None:
            self._runs |= earlier._runs
            self._order = earlier._order
            self._earlier = tuple(earlier._folders(goes_on=False))

    def sidecar(self, folder: str) -> Sidecar:
        """The sidecar of a folder, read once."""
        if folder not in self._sidecars:
            plain, of_all = self._plains()
            self._sidecars[folder] = Sidecar(
                folder,
                self._template,
                plain,
                disk=self._disk,
                tell=self._damage.append,
                of_all=of_all,
            )
        return self._sidecars[folder]

    def _plains(self) -> tuple[str, str | None]:
        """The template without braces, this worker's; and that of all workers, if it is another."""
        template = FileTemplate.parse(self._template)
        own, of_all = template.plain(worker=self._worker), template.plain()
        return own, None if own == of_all else of_all

    def check(self, needed_bytes: int | None) -> None:
        """Make the folder, and see that a file can be written to it, and take the name's place.

        Args:
            needed_bytes: What a file takes at least, if that is known.

        Raises:
            SaveError: If not, or if there is no room, or if the sidecar is none that can be used.
        """
        folder = os.path.abspath(static_folder(self.filepath))
        try:
            os.makedirs(folder, exist_ok=True)
            self._began_ns = files.probe(folder)
        except OSError as error:
            raise SaveError.because_of(
                error, folder, expected="a folder that can be written"
            ) from error
        if FileTemplate.parse(self.filepath).is_fixed:
            self._check_place()
        if "{" not in self._dynamic:
            self._check_sidecar()
        if needed_bytes is None or not hasattr(os, "statvfs"):
            return
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        if free < needed_bytes:
            raise SaveError.for_path(
                folder,
                f"the model has {needed_bytes} bytes and {free} are free",
                expected="a folder with room for the model",
                hint="free some space, or save elsewhere.",
            )

    def _check_place(self) -> None:
        try:
            check_replaceable(os.stat(self.filepath), self.filepath)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SaveError.because_of(
                error, self.filepath, expected="the path of a file"
            ) from error

    def _check_sidecar(self) -> None:
        sidecar = self.sidecar(static_folder(self.filepath))
        try:
            sidecar.check()
        except OSError as error:
            raise SaveError.because_of(
                error,
                sidecar.path,
                expected="a sidecar that can be read and added to, or nothing",
                hint="move it away; then nothing is known of the files beside it, and they stay.",
            ) from error

    def sweep(self) -> None:
        """Delete what killed writers left behind."""
        for folder in self._folders(goes_on=True):
            files.sweep(folder, disk=self._disk)
            files.sweep(folder, ASIDE, disk=self._disk)

    def save(self, request: SaveRequest, write: Function[[BinaryIO], Any]) -> SaveOutcome:
        """Commit one file, then delete those that need not stay any more.

        Raises:
            OSError: If it could not be written; then what stood there stands. What goes wrong after
                that is told in the outcome: the new file is safe.
        """
        again = request.target in self._written
        stood = self.write(request.target, request.saved, write, goes_on=request.goes_on)
        aside = stood.aside
        if aside is not None:
            inside = os.path.relpath(aside, os.path.dirname(request.target))
            aside = os.path.join(os.path.dirname(request.path), inside)
        trouble, best = self._clear_away(request.retention)
        return SaveOutcome(
            request,
            aside,
            again,
            trouble,
            was_before=stood.was_before,
            rewritten=stood.rewritten,
            best=best,
            damage=self.take_damage(),
        )

    def take_damage(self) -> tuple[str, ...]:
        """What has been found wrong with sidecars since it was asked last, in words."""
        found = tuple(self._damage)
        self._damage.clear()
        return found

    def _clear_away(
        self, retention: Retention | None
    ) -> tuple[str | None, tuple[str, SavedFile] | None]:
        """Delete what need not stay: why that failed, or None; and the best that stays."""
        if retention is None:
            return None, None
        try:
            done = self.retain(retention.policy, goes_on=retention.goes_on, ranks=retention.ranks)
        except OSError as error:
            return error.strerror or str(error), None
        except Exception as error:  # a policy or a sidecar that somebody wrote: the save is safe
            return f"{type(error).__name__}: {error}", None
        failures = done.failures or {}
        trouble = "; ".join(f"{path}: {reason}" for path, reason in failures.items())
        return trouble or None, done.best

    def write(
        self,
        path: str,
        saved: SavedFile,
        write: Function[[BinaryIO], Any],
        *,
        goes_on: bool,
    ) -> Stood:
        """Commit one file, what is known of it first.

        Args:
            path: Its final name.
            saved: What is known of it, but for checksum and size.
            write: Writes the content to an open file.
            goes_on: Whether this run goes on from a file of ours under this name.

        Returns:
            What stood there.
        """
        folder, name = os.path.split(path)
        folder = folder or "."
        if not os.path.isdir(folder):
            files.make_folder(folder, disk=self._disk)
        sidecar = self.sidecar(folder)
        standing, stood = self._written.get(path), Stood()
        if standing is not None and sidecar.entry_by_look(name) != standing:
            standing = None  # somebody has been there since

        def before_rename(committed: files.CommittedFile) -> None:
            nonlocal standing, stood
            until_committed.enter_context(sidecar.locked())
            if standing is None and os.path.exists(path):
                standing = sidecar.entry_for(name)
                stood = self._make_room(path, sidecar, standing, goes_on=goes_on)
            full = replace(
                saved,
                checksum=committed.checksum,
                size=committed.size,
                mtime_ns=committed.mtime_ns,
            )
            full = sidecar.record(name, full, standing=standing, after=self._order)
            self._written[path], self._order = full, full.order

        with contextlib.ExitStack() as until_committed:
            try:
                files.commit(path, write, before_rename=before_rename, disk=self._disk)
            except BaseException:
                # The entry may be recorded, and the file not there: what stands is looked up.
                self._written.pop(path, None)
                raise
            self._own.add(path)
            self._make_newest(path, sidecar, stood.aside)
        return stood

    def _make_room(
        self, path: str, sidecar: Sidecar, standing: SavedFile | None, *, goes_on: bool
    ) -> Stood:
        """Keep what stands there, if this run may not replace it."""
        # After a failed save it may be this run's own.
        own = standing is not None and standing.run_id in self._runs
        if path in self._own:
            return Stood(rewritten=not own)
        if standing is not None and (goes_on or own):
            return Stood()
        was_before = os.stat(path).st_ctime_ns <= self._began_ns
        aside = sidecar.set_aside(os.path.basename(path), self.suffix)
        return Stood(None if aside is None else _join(sidecar.folder, aside), was_before)

    def _make_newest(self, path: str, sidecar: Sidecar, aside: str | None) -> None:
        """Let whoever takes the newest file, by either clock, take this one."""
        others, patience_s = [sidecar.path], _A_TICK_S
        if aside is not None:
            others += [aside, os.path.dirname(aside)]
            patience_s = _COARSEST_TICK_S
        make_newest(path, others, patience_s=patience_s, disk=self._disk)

    def best(self, monitor: str, direction: Direction) -> tuple[str, SavedFile] | None:
        """The best file that is there and whole, by what the sidecar knows; reads files to know."""
        known = [
            (folder, name, saved)
            for folder, name, saved in self._known()
            if (saved.monitor, saved.mode) == (monitor, direction)
        ]
        infos = infos_of([saved for *_, saved in known])
        by_commit = {info.commit: one for info, one in zip(infos, known, strict=True)}
        for info in KeepBest(monitor, direction.value).ranked(infos):
            folder, name, saved = by_commit[info.commit]
            standing = self.sidecar(folder).entry_for(name)
            if standing is not None and standing.checksum == saved.checksum:
                return _join(folder, name), saved
        return None

    def newest(self) -> str | None:
        """The newest file that is there, by what the sidecar knows."""
        known = self._known()
        infos = infos_of([saved for *_, saved in known])
        for _, (folder, name, saved) in sorted(
            zip((info.commit for info in infos), known, strict=True), reverse=True
        ):
            if self.sidecar(folder).entry_by_look(name) == saved:
                return _join(folder, name)
        return None

    def better_than(self, value: float, ranks: KeepBest) -> tuple[str, SavedFile] | None:
        """The best file that is there and better than a value, whosever it is; set aside, too."""
        found = {
            _join(folder, name): saved
            for folder in self._folders(goes_on=True)
            for name in self._names(folder, aside=True)
            if (saved := self.sidecar(folder).entry_by_look(name)) is not None
            and (saved.monitor, saved.mode) == (ranks.metric, ranks.mode)
        }
        best = best_of(found, ranks)
        criterion = Criterion(Direction(ranks.mode))
        return best if best is not None and criterion.better(best[1].value, value) else None

    def _known(self) -> list[tuple[str, str, SavedFile]]:
        """Folder, name and entry of all that this run may go on from."""
        return [
            (folder, name, saved)
            for folder in self._folders(goes_on=True)
            for name in self._names(folder, run_id=self.run_id)
            for saved in self.sidecar(folder).entries(name)
        ]

    def _names(self, folder: str, *, aside: bool = False, **known: Any) -> list[str]:
        """Names in a folder under which this worker saves; `aside`: what was set aside, too."""
        template = FileTemplate.parse(os.path.abspath(self.filepath))
        return [
            name
            for name in self.sidecar(folder).names()
            if (aside and is_aside(name, self.suffix))
            or (
                not is_aside(name, self.suffix)
                and template.matches(
                    os.path.abspath(_join(folder, name)), {"worker": self._worker, **known}
                )
            )
        ]

    def retain(
        self,
        policy: KeepPolicy | None,
        *,
        protect: Iterable[str] = (),
        goes_on: bool = False,
        ranks: KeepBest | None = None,
    ) -> Retained:
        """Delete the files that a policy does not keep; called when the newest one is durable.

        Only files are deleted that the sidecar lists and that hold, byte by byte, what it says;
        never what was kept aside. What cannot be deleted is told, not raised.

        Args:
            policy: What stays; None keeps everything.
            protect: Paths that stay, whatever the policy says.
            goes_on: Whether files of earlier runs count too, and may go; otherwise only this run's.
            ranks: By what the best is told.
        """
        found: dict[str, SavedFile] = {}
        for folder in self._folders(goes_on=goes_on):
            sidecar = self.sidecar(folder)
            for name in self._names(folder):
                saved = sidecar.entry_by_look(name)
                if saved is not None and (goes_on or saved.run_id in self._runs):
                    found[_join(folder, name)] = saved
        safe = {os.path.abspath(path) for path in protect}
        done = self._delete(
            {
                path: found[path]
                for path in files_to_delete(found, policy)
                if os.path.abspath(path) not in safe
            }
        )
        return done if ranks is None else replace(done, best=best_of(found, ranks))

    def _delete(self, going: Mapping[str, SavedFile]) -> Retained:
        deleted: list[str] = []
        failures: dict[str, str] = {}
        for folder in sorted({os.path.dirname(path) or "." for path in going}):
            paths = {
                os.path.basename(path): path
                for path in going
                if (os.path.dirname(path) or ".") == folder
            }
            checksums = {name: going[path].checksum for name, path in paths.items()}
            try:
                done = delete(folder, checksums, disk=self._disk)
            except OSError as error:
                failures |= dict.fromkeys(paths.values(), error.strerror or str(error))
                continue
            deleted += [paths[name] for name in done.names]
            for name in done.names:
                self.sidecar(folder).forget(name)
            for path in deleted:
                self._written.pop(path, None)
            failures |= {paths[name]: reason for name, reason in done.failures.items()}
        return Retained(tuple(deleted), failures or None)

    def _folders(self, *, goes_on: bool) -> list[str]:
        """Where files of this template are: this run's and, if it goes on from them, earlier ones'.

        Spelled as in the paths that are written: one folder must not count twice.
        """
        static = static_folder(self.filepath)
        folders = [*self._sidecars, *self._earlier, static]
        if goes_on and "{" in self._dynamic:
            plain = FileTemplate.parse(self._dynamic).plain()  # a slash in a place parts no folders
            depth = len(os.path.relpath(plain, static).split(os.sep))
            for plain in filter(None, self._plains()):
                name = glob.escape(sidecar_name(plain))
                pattern = os.path.join(glob.escape(static), *"*" * depth, name)
                folders += [os.path.dirname(path) for path in sorted(glob.glob(pattern))]
        spelled = {os.path.abspath(folder): folder for folder in reversed(folders)}
        return list(spelled.values())


def _join(folder: str, name: str) -> str:
    return name if folder == "." else os.path.join(folder, name)
