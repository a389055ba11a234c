"""Keras's three file formats, in two halves: what will stand in the file, and writing it.

Rules of this file:

1. `plan` runs Keras's own saving functions on the live model, on the thread that trains, with a
   store that notes variables instead of reading them. Everything else that may change later
   (configuration, assets, values that a layer computes) is copied there and then.
2. A plan holds no model and reads no variable: `write` gets their values, on any thread.
3. Nothing of Keras's is patched. Where one of its functions must see a stand-in, a private copy of
   the function with other globals runs.
4. Whatever goes wrong while planning is `CannotPlanError`: the model's own method then writes the
   file, or raises what it raises.
5. A `.keras` is written from its beginning to its end. A member's header holds the checksum of what
   follows: `zipfile` goes back to fill it in, and then the whole file would have to be read once
   more to be hashed. So the content is looked at first.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from types import FunctionType, SimpleNamespace
from typing import Any, BinaryIO, final

import numpy as np

from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import CannotPlanError
from peakhold.keras.files.hdf5_image import Structure, image_of
from peakhold.keras.files.stand_ins import Later, NotedFile, Unread, noting
from peakhold.keras.files.undistributed import undistributed
from peakhold.keras.host.gradients import own_variables

__all__ = ["FilePlan", "plan"]

_Member = tuple[zipfile.ZipInfo, bytes | None]
"""A member of a zip; None stands for the weights."""


@final
class FilePlan:
    """What will stand in a file, but for the values of the variables.

    Attributes:
        variables: The variables whose values the file needs, each once.
        extra_bytes: Size of the values that were copied already.
    """

    def __init__(
        self, structure: Structure, values: Sequence[Any], members: Sequence[_Member] = ()
    ) -> None:
        numbers: dict[int, int] = {}
        variables: list[Any] = []
        sources: list[int | np.ndarray] = []
        for value in values:
            if not isinstance(value, Later):
                sources.append(value)
                continue
            number = numbers.setdefault(id(value.variable), len(variables))
            if number == len(variables):
                variables.append(value.variable)
            sources.append(number)
        self.variables = tuple(variables)
        self._structure, self._sources, self._members = structure, sources, tuple(members)
        self.extra_bytes = sum(s.nbytes for s in sources if not isinstance(s, int)) + sum(
            len(content) for _, content in members if content is not None
        )

    def write(self, file: BinaryIO, arrays: Sequence[np.ndarray]) -> None:
        """Write the file; on any thread.

        Args:
            file: At its start.
            arrays: The values of `variables`, in that order. Each is asked for when it is due.
        """
        image = image_of(self._structure)
        weights = image.pieces(self._sources, arrays)
        if not self._members:
            file.writelines(weights)
            return
        with _first_error(), zipfile.ZipFile(file, "w") as archive:
            for info, content in self._members:
                if content is None:
                    _add(archive, file, info, image.size, list(weights))  # views, no copies
                else:
                    _add(archive, file, info, len(content), (content,))


def plan(model: Any, suffix: str) -> FilePlan:
    """Note what a file of this model would hold now; on the thread that trains.

    On JAX the model must have been synced.

    Args:
        model: A Keras model.
        suffix: `.keras`, `.weights.h5` or `.h5`.

    Raises:
        CannotPlanError: If only the model's own method can write this file.
        InvalidArgumentError: For the weights of a model that is not built.
    """
    method = "save_weights" if suffix == ".weights.h5" else "save"
    defined = next((cls for cls in type(model).__mro__ if method in vars(cls)), type(model))
    if not defined.__module__.startswith("keras.") or method in vars(model):
        raise CannotPlanError(f"{type(model).__name__} has a {method}() of its own")
    if suffix == ".weights.h5" and not model.built:
        raise InvalidArgumentError.for_argument(
            "model",
            model.name,
            "a model that has been built",
            hint="call it on some data, or build(), before saving its weights, as Keras asks for.",
        )
    try:
        with _names_kept():
            if suffix == ".h5":
                return FilePlan(*_legacy(model))
            if suffix == ".weights.h5":
                return FilePlan(*_state(model, None))
            return _zip(model)
    except CannotPlanError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CannotPlanError(f"noting what its file holds failed with {reason}") from error


# `.keras`


def _zip(model: Any) -> FilePlan:
    from keras.src.saving import saving_lib as lib

    config, metadata = lib._serialize_model_as_json(model)
    assets = _assets_store()
    try:
        structure, values = _state(model, assets)
        members = [
            (zipfile.ZipInfo(lib._METADATA_FILENAME), metadata.encode()),
            (zipfile.ZipInfo(lib._CONFIG_FILENAME), config.encode()),
            (zipfile.ZipInfo(lib._VARS_FNAME_H5, time.localtime()[:6]), None),
            *assets.members(),
        ]
    finally:
        assets.close()
    return FilePlan(structure, values, members)


def _add(
    archive: zipfile.ZipFile,
    file: BinaryIO,
    info: zipfile.ZipInfo,
    size: int,
    pieces: Sequence[bytes | memoryview],
) -> None:
    """Add a stored member, its header in its last form first (rule 5).

    Args:
        archive: Where to; open for writing.
        file: What it writes to, at the end of the member before.
        info: The member's name, date and mode; it stays as it is.
        size: Bytes.
        pieces: The content.
    """
    header = zipfile.ZipInfo(info.filename, info.date_time)
    header.external_attr = info.external_attr or 0o600 << 16
    header.file_size = header.compress_size = size
    header.CRC = 0
    for piece in pieces:
        header.CRC = zlib.crc32(piece, header.CRC)
    begins = header.FileHeader(size > zipfile.ZIP64_LIMIT)
    header.header_offset = archive.start_dir  # where the member before has ended
    file.write(begins)
    file.writelines(pieces)
    archive.filelist.append(header)
    archive.NameToInfo[header.filename] = header
    archive.start_dir += len(begins) + size


@contextlib.contextmanager
def _first_error() -> Iterator[None]:
    """After a failed write a zip fails again while it is closed: the first error has the reason."""
    handled = sys.exception()  # of the caller, which has nothing to do with this one
    try:
        yield
    except BaseException as error:
        first = error
        while first.__context__ not in {None, handled}:
            first = first.__context__
        if first is error:
            raise
        raise first from None


def _assets_store() -> Any:
    from keras.src.saving import saving_lib as lib

    class Assets(lib.DiskIOStore):  # type: ignore[misc]
        """Most models have no assets: the folder is made when the first layer asks."""

        def __init__(self) -> None:
            self._store: Any = None

        def make(self, path: str) -> Any:
            if self._store is None:
                self._store = lib.DiskIOStore(lib._ASSETS_DIRNAME, mode="w")
            return self._store.make(path)

        def members(self) -> list[_Member]:
            if self._store is None:
                return []
            found: list[_Member] = []

            def note(path: str, name: str) -> None:
                with open(path, "rb") as asset:
                    found.append((zipfile.ZipInfo.from_file(path, name), asset.read()))

            lib._write_to_zip_recursively(
                SimpleNamespace(write=note), self._store.working_dir, self._store.root_path
            )
            return found

        def close(self) -> None:
            if self._store is not None:
                self._store.close()

    return Assets()


# The weights of `.keras` and `.weights.h5`


def _state(model: Any, assets: Any) -> tuple[Structure, list[Any]]:
    from keras.src.optimizers.base_optimizer import BaseOptimizer
    from keras.src.saving import saving_lib as lib

    file, backend = NotedFile(), noting(lib.backend)

    class UnreadStore(lib.H5IOStore):  # type: ignore[misc]
        def _get_h5_file(self, *_: Any, **__: Any) -> NotedFile:
            return file

        __setitem__ = _copy_of(lib.H5IOStore.__setitem__, {**vars(lib), "backend": backend})

        def __getitem__(self, key: str) -> Any:
            # Kept, in case that the layer catches it and writes something else.
            unread.append(f"a layer reads {key!r} back while it is saved")
            raise CannotPlanError(unread[0])

    unread: list[str] = []
    store = UnreadStore(io.BytesIO(), mode="w")
    names = dict(vars(lib))
    keras_save_state = _copy_of(lib._save_state, names)

    def save_state(
        saveable: Any,
        weights_store: Any,
        assets_store: Any,
        inner_path: str,
        visited_saveables: Any,
    ) -> None:
        weights_store = store
        if id(saveable) not in visited_saveables and _saves_itself_by(
            saveable, BaseOptimizer.save_own_variables
        ):
            # Keras's method reads each variable (`v.numpy()`): it runs on an optimizer that has
            # these variables and gives them back unread.
            metadata = {"name": saveable.name} if isinstance(saveable.name, str) else None
            stand_in = SimpleNamespace(variables=list(map(Unread, own_variables(saveable))))
            BaseOptimizer.save_own_variables(stand_in, store.make(inner_path, metadata=metadata))
            weights_store = None
        keras_save_state(saveable, weights_store, assets_store, inner_path, visited_saveables)

    names.update(
        _save_state=save_state,
        _save_container_state=_copy_of(lib._save_container_state, names),
        _walk_saveable=_copy_of(lib._walk_saveable, names),
        get_attr_skipset=_skipset,
        dir=_names_to_walk,
    )
    save_state(model, store, assets, "", set())
    if unread:
        raise CannotPlanError(unread[0])
    return file.noted()


def _saves_itself_by(saveable: Any, method: Any) -> bool:
    return getattr(getattr(saveable, "save_own_variables", None), "__func__", None) is method


@functools.cache
def _skipset(kind: str) -> frozenset[str]:
    """Keras builds a layer, a metric, … at each step of its walk to know these names."""
    from keras.src.saving import saving_lib as lib

    return frozenset(undistributed(lib.get_attr_skipset, kind))


def _names_to_walk(saveable: Any) -> list[str]:
    """What Keras's walk sorts and then passes over is left out before it sorts."""
    skipset = _skipset(saveable._obj_type())
    return [name for name in dir(saveable) if not (name in skipset or name.startswith("__"))]


# `.h5`


def _legacy(model: Any) -> tuple[Structure, list[Any]]:
    from keras.src.legacy.saving import legacy_h5_format as lib

    def model_metadata(model: Any, *arguments: Any) -> Any:
        # Keras takes the optimizer out of the model's compile configuration and leaves it out.
        compiled = getattr(getattr(model, "_compile_config", None), "config", None)
        before = dict(compiled) if isinstance(compiled, dict) else None
        try:
            return lib.saving_utils.model_metadata(model, *arguments)
        finally:
            if compiled is not None and before is not None:
                compiled.clear()
                compiled.update(before)

    names = {
        **vars(lib),
        "backend": noting(lib.backend),
        "h5py": SimpleNamespace(File=NotedFile),
        "saving_utils": SimpleNamespace(model_metadata=model_metadata),
    }
    for name in (
        "save_model_to_hdf5",
        "save_weights_to_hdf5_group",
        "save_subset_weights_to_hdf5_group",
        "save_optimizer_weights_to_hdf5_group",
        "save_attributes_to_hdf5_group",
    ):
        names[name] = _copy_of(vars(lib)[name], names)
    file = NotedFile()
    names["save_model_to_hdf5"](model, file)
    return file.noted()


# Running Keras's functions


def _copy_of(function: Any, names: dict[str, Any]) -> Any:
    """The same function with other globals."""
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


@contextlib.contextmanager
def _names_kept() -> Iterator[None]:
    """What Keras builds on the way takes no name from the layers that the user builds next."""
    from keras.src.backend.common import global_state

    key = "object_name_uids"
    before = dict(global_state.get_global_attribute(key) or {})
    try:
        yield
    finally:
        after = global_state.get_global_attribute(key)
        if after is not None and after != before:
            after.clear()
            after.update(before)
