"""Sidecars that a person, a disk or an enemy has been at: `CASES` has a function for each kind.

Each is given the folder of files that a run has saved, and changes the sidecar in it. The others
tell what a user may rely on afterwards.
"""

import json
import os

SIDECAR = "w-epoch.safetensors.peakhold.json"
DEEP = "<deep>"
LARGE = "<1e400>"
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def _changed(field, bad):
    def change(folder):
        path = folder / SIDECAR
        first, *lines = path.read_text().splitlines()
        texts = [first]
        for line in lines:
            raw = json.loads(line)
            if bad is MISSING:
                raw.pop(field, None)
            else:
                raw[field] = bad
            text = json.dumps(raw).replace(f'"{LARGE}"', "1e400")
            texts.append(text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000))
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

    return change


MISSING = object()
HUGE = 10**400
ANY = {
    "none": None,
    "missing": MISSING,
    "true": True,
    "list": [[1]],
    "dict": {"a": {"b": 1}},
    "text": "no",
    "empty": "",
    "huge": HUGE,
    "longest_int": 10**4299,
    "negative": -1,
    "half": 1.5,
    "nan": float("nan"),
    "1e400": LARGE,
    "deep": DEEP,
    "megabyte": "x" * 1_000_000,
    "surrogate": "\ud800",
    "nul": "w-1\0.safetensors",
}
FIELDS = (
    "template", "name", "over", "checksum", "size", "epoch", "monitor", "mode", "value", "saved_at",
    "run_id", "batch", "metrics", "versions", "order", "mtime_ns", "finite",
)  # fmt: skip
for _field in FIELDS:
    for _label, _bad in ANY.items():
        CASES[f"{_field}_{_label}"] = _changed(_field, _bad)
for _label, _bad in {
    "metrics_list": {"loss": [1]}, "metrics_deep": {"loss": DEEP}, "metrics_text": {"loss": "low"},
    "metrics_huge": {"loss": HUGE}, "metrics_1e400": {"loss": LARGE}, "metrics_surrogate": {"\ud800": 1},
}.items():  # fmt: skip
    CASES[f"{_label}_inside"] = _changed("metrics", _bad)
for _label, _bad in {
    "up": "../w-1.safetensors", "up_and_back": "../runs/w-1.safetensors", "dots": "..",
    "dot": ".", "absolute": "/etc/passwd", "itself": SIDECAR, "aside_up": "previous/../../w-1.safetensors",
    "aside": "previous/w-1.safetensors", "folder": "previous", "bidi": "w-\u202e1.safetensors",
    "half_a_letter": "w-\udcff.safetensors", "nul_inside": "w-\0.safetensors",
    "surrogate_inside": "w-\ud800.safetensors", "long": f"w-{'9' * 1_000_000}.safetensors",
    "escape": "w-\x1b[31m.safetensors", "line": "w-\n.safetensors",
}.items():  # fmt: skip
    CASES[f"name_{_label}"] = _changed("name", _bad)


# Lines and bytes


def _bytes(change):
    def rewrite(folder):
        path = folder / SIDECAR
        path.write_bytes(change(path.read_bytes()))

    return rewrite


def _lines(change):
    return _bytes(lambda content: b"".join(change(content.splitlines(keepends=True))))


for _label, _change in {
    "empty": lambda content: b"",
    "first_line_missing": None,
    "cut": lambda content: content[:-40],
    "cut_in_the_first_line": lambda content: content[:7],
    "not_utf8": lambda content: content.replace(b"safetensors", b"\xff\xfe"),
    "bom": lambda content: b"\xef\xbb\xbf" + content,
    "utf16": lambda content: content.decode().encode("utf-16"),
    "windows_lines": lambda content: content.replace(b"\n", b"\r\n"),
    "one_line": lambda content: content.replace(b"\n", b" "),
    "nuls": lambda content: b"\0" * len(content),
    "nuls_behind": lambda content: content + b"\0" * 4096,
    "nuls_inside": lambda content: content[:120] + b"\0" * 512 + content[632:],
    "pretty": lambda content: json.dumps([json.loads(x) for x in content.splitlines()], indent=1).encode(),
    "list": lambda content: b"[]\n",
    "number": lambda content: b"3\n",
    "deep": lambda content: b"[" * 100_000 + b"\n",
    "deep_whole": lambda content: b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "deep_behind": lambda content: content + b'{"name":' * 100_000 + b"\n",
    "long_number": lambda content: content + b"9" * 1_000_000 + b"\n",
    "megabytes_of_line_ends": lambda content: content + b"\n" * 4_000_000,
    "megabytes_of_nothing": lambda content: content + b"0\n" * 2_000_000,
    "html": lambda content: b"<!DOCTYPE html>\n<html></html>\n",
    "another_program_s": lambda content: b'{"version": 1, "files": []}\n',
    "format_none": lambda content: content.replace(b'"format": 2', b'"format": null'),
    "format_true": lambda content: content.replace(b'"format": 2', b'"format": true'),
    "format_deep": lambda content: content.replace(b'"format": 2', b'"format": ' + b"[" * 100_000),
    "format_negative": lambda content: content.replace(b'"format": 2', b'"format": -1'),
    "format_1_of_nothing": lambda content: b'{"format": 1}',
    "format_1_files_list": lambda content: b'{"format": 1, "files": []}',
    "format_1_entries_none": lambda content: b'{"format": 1, "files": {"w-1.safetensors": null}}',
    "format_1_entries_deep": lambda content: b'{"format": 1, "files": {"w-1.safetensors": ' + b"[" * 100_000,
    "format_1_entry_number": lambda content: b'{"format": 1, "template": [], "files": {"": [3], "\\u0000": [{}]}}',
}.items():  # fmt: skip
    if _change is not None:
        CASES[f"bytes_{_label}"] = _bytes(_change)
CASES["lines_first_missing"] = _lines(lambda lines: lines[1:])
CASES["lines_all_twice"] = _lines(lambda lines: lines * 2)
CASES["lines_backwards"] = _lines(lambda lines: lines[:1] + lines[:0:-1])
CASES["lines_one_missing"] = _lines(lambda lines: lines[:1] + lines[2:])
CASES["lines_one_cut"] = _lines(lambda lines: [*lines[:1], lines[1][:50] + b"\n", *lines[2:]])
CASES["lines_duplicate_keys"] = _lines(
    lambda lines: [lines[0], *(b'{"name": 3, "checksum": [], ' + x[1:] for x in lines[1:])]
)


@case
def claims_a_tebibyte(folder):
    os.truncate(folder / SIDECAR, 1 << 40)  # sparse
