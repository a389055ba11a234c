"""What TensorBoard's projector reads: a configuration, and a file of numbers for each embedding.

The projector takes a tensor file for text, and only if that fails to decode for float32; so a file
is binary where its first line cannot be text, and text else. Paths stand relative to the
configuration's folder, and may not lead out of it.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from peakhold import files
from peakhold.disk.local_path import local_path
from peakhold.files.open_files import shortened

__all__ = ["Embedding", "write_projector"]

_CONFIGURATION = "projector_config.pbtxt"


@final
@dataclass(frozen=True, slots=True)
class Embedding:
    """One embedding to show."""

    name: str
    """Shown in the projector's list."""
    tensor: np.ndarray[Any, Any]
    """Of shape `(points, dimensions)`."""
    metadata_path: str | None = None
    """File of labels, one line for each point; relative to the folder."""


def write_projector(log_dir: str, embeddings: Iterable[Embedding]) -> None:
    """Write embeddings, and the configuration that names them, over earlier ones.

    Args:
        log_dir: The folder that is passed to TensorBoard; it is made.
        embeddings: What to show.

    Raises:
        OSError: If the disk refuses; an earlier file stays whole.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_projector(folder, [Embedding("words", np.eye(3), "words.tsv")])
        >>> print(open(f"{folder}/projector_config.pbtxt").read())
        embeddings {
          tensor_name: "words"
          tensor_shape: 3
          tensor_shape: 3
          tensor_path: "embeddings/words.tensor"
          metadata_path: "words.tsv"
        }
        <BLANKLINE>
    """
    log_dir = local_path(
        "log_dir", log_dir, "the path of a folder", hint="pass a path such as 'logs/run-1'."
    )
    os.makedirs(os.path.join(log_dir, "embeddings"), exist_ok=True)
    lines = []
    taken: set[str] = set()
    for one in embeddings:
        tensor = np.ascontiguousarray(one.tensor, "<f4")
        path = f"embeddings/{_file_name(one.name, taken)}"
        _commit(os.path.join(log_dir, path), _content(tensor))
        lines += ["embeddings {", f'  tensor_name: "{_escaped(one.name)}"']
        lines += [f"  tensor_shape: {size}" for size in tensor.shape]
        lines.append(f'  tensor_path: "{path}"')
        if one.metadata_path is not None:
            lines.append(f'  metadata_path: "{_escaped(one.metadata_path)}"')
        lines.append("}")
    text = "".join(f"{line}\n" for line in lines)
    _commit(os.path.join(log_dir, _CONFIGURATION), text.encode())


def _file_name(name: str, taken: set[str]) -> str:
    """The name of an embedding's file, which no other in `taken` has, on any file system."""
    safe = re.sub(r"[^\w.-]", "_", name)
    for number in itertools.count(1):
        end = f"-{number}.tensor" if number > 1 else ".tensor"
        found = shortened(safe, len(end)) + end
        if found.lower() not in taken:
            taken.add(found.lower())
            return found
    raise AssertionError


def _commit(path: str, content: bytes) -> None:
    files.commit(path, lambda file: file.write(content))


def _content(tensor: np.ndarray[Any, Any]) -> bytes:
    binary = tensor.tobytes()
    try:
        binary.split(b"\n", 1)[0].decode()
    except UnicodeDecodeError:
        return binary
    rows = ("\t".join(f"{value:.9g}" for value in row) for row in tensor.tolist())
    return "".join(f"{row}\n" for row in rows).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
