"""The manifest: everything a reader must know before it touches a tensor.

A JSON object, its format number first and its own checksum last, so that the checksum covers all
that stands before it:

    {"format":1, … ,"xxh3_128":"<32 hex digits of everything before this comma>"}

Reading is strict: bounded size, no duplicate keys, every number in range, every name a plain file
name, offsets that tile each file exactly. What fails is damage with a reason, whatever the bytes.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, final

from peakhold._core.numbers import number_from_json, numbers_to_json
from peakhold.files.checksum import checksum_of
from peakhold.snapshots.tree import TreeError, parse_json

__all__ = [
    "FILE_NAME",
    "MAX_COUNT",
    "MAX_JSON_BYTES",
    "FileRecord",
    "Manifest",
    "ManifestError",
    "TensorRecord",
    "checkpoints_in",
    "decode",
    "encode",
    "folder_name",
    "next_revision",
    "parse_folder_name",
]

FILE_NAME: Final = "manifest.json"
FORMAT: Final = 1
# 32 MiB hold 170,000 tensors. Python needs up to 20 times the text to hold hostile JSON: 640 MB.
MAX_JSON_BYTES: Final = 32 << 20
MAX_COUNT: Final = 2**62 - 1  # of a step, a commit number, an offset
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_FOLDER: Final = re.compile(r"step-(\d{8,18})(?:\.r([1-9]\d{0,8}))?")
_CHECKSUM: Final = re.compile(r"[0-9a-f]{32}")
_TAIL: Final = re.compile(rb',"xxh3_128":"([0-9a-f]{32})"\}\n?')
_TAIL_BYTES: Final = len(',"xxh3_128":""}\n') + 32


class ManifestError(ValueError):
    """A manifest that is not one; the text says why."""


@final
@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a checkpoint."""

    name: str
    part: str
    size: int
    """Bytes."""
    covered: int
    """How many leading bytes the checksum covers; tensors cover the rest."""
    checksum: str
    """xxh3-128 as 32 hex digits."""


@final
@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor of a checkpoint."""

    name: str
    dtype: str
    stored_as: str | None
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int
    checksum: str
    """xxh3-128 of the bytes as they were in memory."""
    finite: bool
    """False if it holds NaN or an infinity."""


@final
@dataclass(frozen=True, slots=True)
class Manifest:
    """What one checkpoint is."""

    step: int
    revision: int
    """1, or higher if the step was saved before."""
    commit: int
    """Running number of the commit; the larger, the newer."""
    epoch: int | None
    metrics: dict[str, float]
    reason: str | None
    committed_at: datetime
    required: tuple[str, ...]
    files: tuple[FileRecord, ...]
    tensors: tuple[TensorRecord, ...]
    refers_to: tuple[int, ...] = ()
    """Steps of other checkpoints that this one needs."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return folder_name(self.step, self.revision)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, in the order saved."""
        return tuple(dict.fromkeys(file.part for file in self.files))

    @property
    def nbytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.files)

    @property
    def finite(self) -> bool:
        """False if a tensor holds NaN or an infinity."""
        return all(tensor.finite for tensor in self.tensors)


def folder_name(step: int, revision: int) -> str:
    """Return the name of a checkpoint's folder.

    Example:
        >>> folder_name(4200, 1), folder_name(4200, 2)
        ('step-00004200', 'step-00004200.r2')
    """
    return f"step-{step:08d}" + (f".r{revision}" if revision > 1 else "")


def parse_folder_name(name: str) -> tuple[int, int] | None:
    """Return step and revision, or None if no checkpoint has such a name."""
    match = _FOLDER.fullmatch(name)
    if match is None:
        return None
    step, revision = int(match[1]), int(match[2] or 1)
    return (step, revision) if folder_name(step, revision) == name else None


def checkpoints_in(names: Iterable[str], step: int | None = None) -> list[str]:
    """Those names that are checkpoints', of one step or of all."""
    keys = ((name, parse_folder_name(name)) for name in names)
    return [name for name, key in keys if key and step in (None, key[0])]


def next_revision(names: Iterable[str], step: int) -> int:
    """One more than the highest revision of a step among these names."""
    keys = map(parse_folder_name, names)
    return max((key[1] for key in keys if key and key[0] == step), default=0) + 1


def is_plain_name(name: str) -> bool:
    """True if `name` can be a part's or a file's name: no separator, no dot in front, ASCII."""
    return _NAME.fullmatch(name) is not None


def _lines(items: Iterable[object]) -> str:
    """A JSON array with one item a line: short, and still good to look at."""
    body = ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
    return f"[\n{body}\n]" if body else "[]"


def encode(manifest: Manifest) -> bytes:
    """Return the manifest's bytes, its checksum last."""
    head: dict[str, object] = {
        "format": FORMAT,
        "step": manifest.step,
        "revision": manifest.revision,
        "commit": manifest.commit,
        "epoch": manifest.epoch,
        "metrics": numbers_to_json(manifest.metrics),
        "reason": manifest.reason,
        "committed_at": manifest.committed_at.astimezone(UTC).isoformat(),
        "required": list(manifest.required),
    }
    if manifest.refers_to:
        head["refers_to"] = list(manifest.refers_to)
    files = _lines(
        {
            "name": file.name,
            "part": file.part,
            "size": file.size,
            "covered": file.covered,
            "xxh3_128": file.checksum,
        }
        for file in manifest.files
    )
    tensors = _lines(_tensor_members(tensor) for tensor in manifest.tensors)
    text = json.dumps(head, allow_nan=False, separators=(",", ":"))[:-1]
    body = f'{text},\n"files":{files},\n"tensors":{tensors}\n'.encode("ascii")
    return body + f',"xxh3_128":"{checksum_of(body)}"}}\n'.encode("ascii")


def _tensor_members(tensor: TensorRecord) -> dict[str, object]:
    members: dict[str, object] = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "file": tensor.file,
        "offsets": [tensor.begin, tensor.end],
        "xxh3_128": tensor.checksum,
    }
    if tensor.stored_as is not None:
        members["as"] = tensor.stored_as
    if not tensor.finite:
        members["finite"] = False
    return members


def decode(data: bytes) -> Manifest:
    """Check and parse a manifest's bytes.

    Raises:
        ManifestError: If anything about them is wrong.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ManifestError(f"it has {len(data):,} bytes, at most {MAX_JSON_BYTES:,} are read")
    tail = _TAIL.fullmatch(data[-_TAIL_BYTES:])
    if tail is None:
        raise ManifestError("it does not end in its checksum")
    if checksum_of(data[:-_TAIL_BYTES]) != tail[1].decode("ascii"):
        raise ManifestError("its checksum does not match")
    try:
        members = parse_json(data)
    except TreeError as exc:
        raise ManifestError(str(exc)) from exc
    if not isinstance(members, dict):
        raise ManifestError("it is not an object")
    if not _is_count(members.get("format")) or members["format"] != FORMAT:
        raise ManifestError(
            f"its format is {_shown(members.get('format'))}, this version reads format {FORMAT}"
        )
    return _manifest(members)


def _get(members: Mapping[str, Any], key: str, check: Callable[[Any], bool]) -> Any:
    value = members.get(key)
    if key not in members or not check(value):
        raise ManifestError(f"{key!r} is {_shown(value)}, which it cannot be")
    return value


def _shown(value: Any) -> str:
    """A few words for a stranger's value: its own `repr` may be endless, or recurse too deeply."""
    return reprlib.repr(value)[:100]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_counts(value: Any) -> bool:
    return _is_list(value) and all(map(_is_count, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and _CHECKSUM.fullmatch(value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and is_plain_name(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _manifest(members: Mapping[str, Any]) -> Manifest:
    files = tuple(_file(item) for item in _get(members, "files", _is_list))
    tensors = tuple(_tensor(item) for item in _get(members, "tensors", _is_list))
    required = _get(members, "required", lambda v: _is_list(v) and all(map(_is_name, v)))
    manifest = Manifest(
        step=_get(members, "step", _is_count),
        revision=_get(members, "revision", lambda v: _is_count(v) and v > 0),
        commit=_get(members, "commit", _is_count),
        epoch=_get(members, "epoch", lambda v: v is None or _is_count(v)),
        metrics={str(k): _metric(v) for k, v in _get(members, "metrics", _is_dict).items()},
        reason=_get(members, "reason", lambda v: v is None or _is_text(v)),
        committed_at=_time(_get(members, "committed_at", _is_text)),
        required=tuple(required),
        files=files,
        tensors=tensors,
        refers_to=tuple(_get(members, "refers_to", _is_counts)) if "refers_to" in members else (),
    )
    if len({file.name for file in files}) != len(files):
        raise ManifestError("it names a file twice")
    if any(file.name == FILE_NAME for file in files):
        raise ManifestError("it names itself among the files")
    _check_tensors(manifest)
    return manifest


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _metric(value: Any) -> float:
    number = number_from_json(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        try:
            return float(number)
        except OverflowError:
            pass
    raise ManifestError(f"a metric is {_shown(value)}, which is no number")


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ManifestError(f"'committed_at' is {text!r:.100}, which is no time") from exc


def _file(item: Any) -> FileRecord:
    if not isinstance(item, dict):
        raise ManifestError("a file's record is not an object")
    record = FileRecord(
        name=_get(item, "name", _is_name),
        part=_get(item, "part", _is_name),
        size=_get(item, "size", _is_count),
        covered=_get(item, "covered", _is_count),
        checksum=_get(item, "xxh3_128", _is_checksum),
    )
    if record.covered > record.size or record.covered > MAX_JSON_BYTES:
        raise ManifestError(f"file {record.name!r}: 'covered' is {record.covered:,}, too large")
    return record


def _tensor(item: Any) -> TensorRecord:
    if not isinstance(item, dict):
        raise ManifestError("a tensor's record is not an object")
    begin, end = _get(
        item, "offsets", lambda v: _is_list(v) and list(map(_is_count, v)) == [True, True]
    )
    return TensorRecord(
        name=_get(item, "name", _is_text),
        dtype=_get(item, "dtype", _is_text),
        stored_as=_get(item, "as", _is_text) if "as" in item else None,
        shape=tuple(_get(item, "shape", _is_counts)),
        file=_get(item, "file", _is_name),
        begin=begin,
        end=end,
        checksum=_get(item, "xxh3_128", _is_checksum),
        finite=_get(item, "finite", lambda v: isinstance(v, bool)) if "finite" in item else True,
    )


def _check_tensors(manifest: Manifest) -> None:
    """Tie tensors to files: each names one that is there, and no part has a name twice."""
    parts = {file.name: file.part for file in manifest.files}
    seen: set[tuple[str, str]] = set()
    for tensor in manifest.tensors:
        part = parts.get(tensor.file)
        if part is None:
            raise ManifestError(f"tensor {tensor.name!r:.100} is in a file that is not listed")
        if (part, tensor.name) in seen:
            raise ManifestError(f"tensor {tensor.name!r:.100} is there twice")
        seen.add((part, tensor.name))
