"""Checkpoints that a stranger made to hurt: each function turns a good one into one of them.

Checksums are made right again afterwards, so that what is tested is what lies behind them.
"""

import json
import os
import pickle
import struct
import tempfile

import xxhash

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Hostile:
    """A good checkpoint's manifest and files, to be changed and sealed again.

    Args:
        folder: Of the checkpoint.
        outside: A file that is none of its business.
        part: The part that is changed; it has two tensors.
        other: A part that stays.
    """

    def __init__(self, folder, outside, part="model", other="train"):
        self.folder = folder
        self.outside = outside
        self.part, self.other = part, other
        self.tensor_file, self.tree_file = f"{part}.safetensors", f"{part}.json"
        self.manifest = json.loads((folder / "manifest.json").read_bytes())
        del self.manifest["xxh3_128"]

    @property
    def files(self):
        return {file["name"]: file for file in self.manifest["files"]}

    @property
    def tensors(self):
        return self.manifest["tensors"]

    @property
    def its_tensors(self):
        """Those of the part that is changed."""
        return [tensor for tensor in self.tensors if tensor["file"] == self.tensor_file]

    @property
    def tensor(self):
        """The name of its first."""
        return self.its_tensors[0]["name"]

    def put(self, name, data):
        """Write a file and make the manifest agree with it."""
        (self.folder / name).write_bytes(data)
        covered = len(data)
        if name.endswith(".safetensors") and len(data) >= 8:
            covered = min(len(data), 8 + struct.unpack("<Q", data[:8])[0])
        self.files[name].update(
            size=len(data), covered=covered, xxh3_128=xxhash.xxh3_128_hexdigest(data[:covered])
        )

    def header(self, change=None, text=None, length=None):
        """Rewrite the tensor file's header."""
        data = (self.folder / self.tensor_file).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        if change:
            change(header)
        text = json.dumps(header).encode() if text is None else text
        length = len(text) if length is None else length
        self.put(self.tensor_file, struct.pack("<Q", length) + text + data[8 + size :])

    def seal(self, text=None):
        body = (json.dumps(self.manifest, allow_nan=True) if text is None else text)[:-1].encode()
        tail = f',"xxh3_128":"{xxhash.xxh3_128_hexdigest(body)}"}}\n'.encode()
        (self.folder / "manifest.json").write_bytes(body + tail)


# -- paths -------------------------------------------------------------------------------------


def _renamed(name):
    def change(h):
        h.files[h.tensor_file]["name"] = name
        for tensor in h.tensors:
            if tensor["file"] == h.tensor_file:
                tensor["file"] = name
        h.seal()

    return change


for label, name in {
    "path_traversal": "../outside.safetensors",
    "path_traversal_deep": "a/../../outside.safetensors",
    "path_absolute": "/etc/passwd",
    "path_backslash": "..\\outside.safetensors",
    "path_dot": ".",
    "path_dot_dot": "..",
    "path_empty": "",
    "path_hidden": ".lock",
    "path_nul": "model\0.safetensors",
    "path_newline": "model\n.safetensors",
    "path_percent": "%2e%2e%2foutside",
    "path_long": "a" * 300,
    "path_unicode": "model\u2024safetensors",
}.items():
    CASES[label] = _renamed(name)


@case
def symlink_file(h):
    (h.folder / h.tensor_file).unlink()
    (h.folder / h.tensor_file).symlink_to(h.outside)
    h.files[h.tensor_file].update(size=h.outside.stat().st_size)
    h.seal()


@case
def symlink_manifest(h):
    os.rename(h.folder / "manifest.json", h.outside.parent / "elsewhere.json")
    (h.folder / "manifest.json").symlink_to(h.outside.parent / "elsewhere.json")


@case
def symlink_folder(h):
    os.rename(h.folder, h.outside.parent / "moved")
    h.folder.symlink_to(h.outside.parent / "moved")


@case
def symlink_loop(h):
    (h.folder / h.tree_file).unlink()
    (h.folder / h.tree_file).symlink_to(h.tree_file)


@case
def fifo_tensors(h):
    (h.folder / h.tensor_file).unlink()
    os.mkfifo(h.folder / h.tensor_file)


@case
def fifo_manifest(h):
    (h.folder / "manifest.json").unlink()
    os.mkfifo(h.folder / "manifest.json")


@case
def device_file(h):
    (h.folder / h.tree_file).unlink()
    (h.folder / h.tree_file).symlink_to("/dev/zero")


# -- headers -----------------------------------------------------------------------------------


@case
def header_bomb_length(h):
    h.put(h.tensor_file, struct.pack("<Q", 2**63) + b"{}")
    h.seal()


@case
def header_bomb_covered(h):
    h.files[h.tensor_file].update(size=2**40, covered=2**40)
    h.seal()


@case
def header_shorter_than_it_says(h):
    h.header(length=10)
    h.seal()


@case
def header_not_json(h):
    h.header(text=b"\x80\x04not json")
    h.seal()


@case
def header_list(h):
    h.header(text=b"[]")
    h.seal()


@case
def header_deep(h):
    h.header(text=b"[" * 200_000)
    h.seal()


@case
def header_duplicate_keys(h):
    h.header(text=b'{"kernel":{},"kernel":{}}')
    h.seal()


@case
def header_other_dtype(h):
    h.header(lambda header: header[h.tensor].update(dtype="I16"))
    h.seal()


@case
def header_other_shape(h):
    h.header(lambda header: header[h.tensor].update(shape=[25, 40]))
    h.seal()


@case
def header_extra_tensor(h):
    h.header(lambda header: header.update(x={"dtype": "U8", "shape": [], "data_offsets": [0, 1]}))
    h.seal()


# -- offsets and shapes ------------------------------------------------------------------------


def _tensor(**changes):
    def change(h):
        h.its_tensors[0].update(changes)
        h.header(lambda header: None)
        h.seal()

    return change


for label, changes in {
    "offsets_out_of_file": {"offsets": [0, 2**40]},
    "offsets_negative": {"offsets": [-8, 0]},
    "offsets_backwards": {"offsets": [200, 0]},
    "offsets_three": {"offsets": [0, 1, 2]},
    "offsets_float": {"offsets": [0.0, 200.0]},
    "offsets_true": {"offsets": [False, True]},
    "shape_giant": {"shape": [2**40, 2**40]},
    "shape_giant_and_zero": {"shape": [0, 2**62 - 1, 2**61]},
    "shape_negative": {"shape": [-1]},
    "shape_many_axes": {"shape": [1] * 5000},
    "shape_text": {"shape": "25"},
    "dtype_unknown": {"dtype": "F128"},
    "dtype_object": {"dtype": "O"},
    "as_unknown": {"as": "object"},
    "as_wrong": {"as": "complex128"},
    "checksum_text": {"xxh3_128": "zz"},
    "name_number": {"name": 3},
    "file_unknown": {"file": "other.safetensors"},
}.items():
    CASES[label] = _tensor(**changes)


@case
def offsets_overlap(h):
    first, second = h.its_tensors[:2]
    length = second["offsets"][1] - second["offsets"][0]
    second["offsets"] = [first["offsets"][0], first["offsets"][0] + length]
    h.seal()


@case
def tensor_twice(h):
    h.tensors.append(dict(h.tensors[0]))
    h.seal()


@case
def tensors_a_million(h):
    h.manifest["tensors"] = [h.tensors[0]] * 300_000
    h.seal()


# -- the manifest ------------------------------------------------------------------------------


def _manifest(**changes):
    def change(h):
        h.manifest.update(changes)
        h.seal()

    return change


for label, changes in {
    "format_next": {"format": 2},
    "format_text": {"format": "1"},
    "format_none": {"format": None},
    "step_other": {"step": 4},
    "step_giant": {"step": 10**4000},
    "step_float": {"step": 3.0},
    "revision_zero": {"revision": 0},
    "commit_negative": {"commit": -1},
    "metrics_list": {"metrics": []},
    "metrics_nan": {"metrics": {"loss": float("nan")}},
    "metrics_bool": {"metrics": {"loss": True}},
    "metrics_word": {"metrics": {"loss": "infinite"}},
    "refers_to_none": {"refers_to": None},
    "refers_to_number": {"refers_to": 3},
    "refers_to_float": {"refers_to": [3.0]},
    "refers_to_bool": {"refers_to": [True]},
    "refers_to_negative": {"refers_to": [3, -1]},
    "refers_to_giant": {"refers_to": [10**30]},
    "time_none": {"committed_at": "yesterday"},
    "time_extreme": {"committed_at": "0001-01-01T00:00:00+23:59"},
    "files_dict": {"files": {}},
    "files_none": {"files": []},
    "required_gone": {"required": ["model", "train", "optimizer"]},
    "required_path": {"required": ["../model"]},
}.items():
    CASES[label] = _manifest(**changes)


@case
def manifest_duplicate_keys(h):
    h.seal(json.dumps(h.manifest)[:-1] + ',"step":3}')


@case
def manifest_deep(h):
    h.seal("{" + '"a":' + "[" * 100_000 + "}")


@case
def manifest_list(h):
    (h.folder / "manifest.json").write_text("[]")


@case
def manifest_huge(h):
    with open(h.folder / "manifest.json", "r+b") as file:
        file.truncate(2**40)  # sparse: it takes no room


@case
def manifest_not_utf8(h):
    h.seal('{"format":1,"step":"\udcff"}'.encode("utf-8", "surrogateescape").decode("latin-1"))


@case
def file_listed_twice(h):
    h.manifest["files"].append(dict(h.files[h.tree_file]))
    h.seal()


@case
def file_lists_the_manifest(h):
    h.files[h.tree_file]["name"] = "manifest.json"
    h.seal()


# -- part JSON ---------------------------------------------------------------------------------


def _tree(data):
    def change(h):
        h.put(h.tree_file, data)
        h.seal()

    return change


MARK = os.path.join(tempfile.gettempdir(), "peakhold-was-here")
"""What the pickles in disguise would make, if anybody unpickled them."""


class Exploit:
    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


for label, data in {
    "tree_pickle": pickle.dumps(Exploit()),
    "tree_nan": b'{"rate":NaN}',
    "tree_infinity": b"[Infinity]",
    "tree_duplicate_keys": b'{"a":1,"a":2}',
    "tree_deep": b"[" * 150_000,
    "tree_deep_but_legal": b"[" * 900 + b"]" * 900,
    "tree_long_number": b"1" * 100_000,
    "tree_unknown_tensor": b'{"$tensor":"gone"}',
    "tree_unknown_mark": b'{"$object":"os.system"}',
    "tree_bad_base64": b'{"$bytes":"####"}',
    "tree_not_utf8": b'"\xff\xfe"',
    "tree_empty": b"",
}.items():
    CASES[label] = _tree(data)


@case
def pickle_in_disguise(h):
    """A pickle where the tensor file should be, sized and checksummed like one."""
    h.put(h.tensor_file, pickle.dumps(Exploit()))
    h.seal()


@case
def tree_two_for_one_part(h):
    record = dict(h.files[f"{h.other}.json"], part=h.part)
    h.manifest["files"] = [f for f in h.manifest["files"] if f["name"] != f"{h.other}.json"] + [
        record
    ]
    h.seal()


# -- what hurts whoever describes it, or looks at all of it again and again ---------------------

_DEEP = b'{"a":' * 900 + b"0" + b"}" * 900

for label, changes in {
    "metrics_1e400": {"metrics": {"loss": "<1e400>"}},
    "metrics_giant": {"metrics": {"loss": 10**400}},
    "format_true": {"format": True},
    "format_float": {"format": 1.0},
    "commit_giant": {"commit": 2**62},
    "reason_deep": {"reason": "<deep>"},
    "format_deep": {"format": "<deep>"},
    "step_deep": {"step": "<deep>"},
    "metrics_deep": {"metrics": {"loss": "<deep>"}},
    "time_deep": {"committed_at": "<deep>"},
    "required_deep": {"required": "<deep>"},
}.items():

    def _raw(h, changes=changes):
        h.manifest.update(changes)
        text = json.dumps(h.manifest).replace('"<1e400>"', "1e400")
        h.seal(text.replace('"<deep>"', _DEEP.decode()))

    CASES[label] = _raw


@case
def tree_1e400(h):
    h.put(h.tree_file, b'{"rate":1e400}')
    h.seal()


@case
def tree_keyed_by_a_tensor(h):
    h.put(h.tree_file, b'{"$dict":[[{"$tensor":"kernel"},1]]}')
    h.seal()


@case
def shape_of_nothing_but_too_large(h):
    """No bytes, and a length that no array of eight-byte numbers can have."""
    first = min(h.its_tensors, key=lambda tensor: tensor["offsets"][0])
    begin = first["offsets"][0]
    empty = {**first, "name": "void", "dtype": "F64", "shape": [0, 2**61 - 1],
             "offsets": [begin, begin], "xxh3_128": xxhash.xxh3_128_hexdigest(b"")}  # fmt: skip
    h.tensors.append(empty)
    h.header(lambda header: header.update(
        void={"dtype": "F64", "shape": empty["shape"], "data_offsets": [begin, begin]}
    ))  # fmt: skip
    h.seal()


@case
def size_of_8_tib(h):
    """Sparse: some kilobytes on disk. Nobody has such memory, and nobody is asked for it."""
    size, path = 8 << 40, h.folder / h.tensor_file
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    h.put(h.tensor_file, _sealed_header({h.tensor: tensor}))
    covered = h.files[h.tensor_file]["covered"]
    try:
        os.truncate(path, covered + size)
    except OSError:  # more than a file can have here: the sizes differ, which is seen first
        os.truncate(path, 1 << 40)
    h.files[h.tensor_file].update(size=covered + size)
    kept = next(t for t in h.tensors if t["name"] == h.tensor and t["file"] == h.tensor_file)
    kept.update(dtype="U8", shape=[size], offsets=[0, size])
    h.manifest["tensors"] = [
        kept, *(t for t in h.tensors if t["file"] != h.tensor_file)
    ]  # fmt: skip
    h.seal()


def _sealed_header(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@case
def files_thousands_of_parts(h):
    """771 KB that took 18 s to verify: each part asked each file for each tensor."""
    tensor = {"dtype": "U8", "shape": [0], "file": "", "offsets": [0, 0],
              "xxh3_128": xxhash.xxh3_128_hexdigest(b"")}  # fmt: skip
    for number in range(1500):
        part = f"p{number}"
        for name in (f"{part}.safetensors", f"{part}.json"):
            h.manifest["files"].append(
                {"name": name, "part": part, "size": 9, "covered": 9, "xxh3_128": "0" * 32}
            )
        h.tensors.append({**tensor, "name": "x", "file": f"{part}.safetensors"})
    h.seal()
