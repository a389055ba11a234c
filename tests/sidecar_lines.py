"""Sidecars, read and changed with no code of ours."""

import json


def entries_of(path):
    """`name -> entries`, the newest first, of either form."""
    text = path.read_text()
    first = text.partition("\n")[0]
    if not text:  # a kill between its beginning and its first line
        return {}
    if '"format": 2' not in first:
        return json.loads(text)["files"]
    found = {}
    for line in text.splitlines()[1:]:
        try:
            raw = json.loads(line)
        except ValueError:  # torn
            continue
        found[raw["name"]] = [
            raw,
            *(e for e in found.get(raw["name"], []) if e["checksum"] == raw["over"]),
        ]
    return found


def change(path, edit):
    """Have each entry changed: `edit(entry)` changes a dict, or returns another."""
    lines = path.read_text().splitlines()
    changed = []
    for line in lines[1:]:
        raw = json.loads(line)
        changed.append(json.dumps(edit(raw) or raw))
    path.write_text("".join(f"{line}\n" for line in [lines[0], *changed]))


def in_the_first_form(path, template):
    """Write it as it was written before there were lines."""
    files = {
        name: [
            {k: v for k, v in e.items() if k not in ("template", "name", "over")} for e in listed
        ]
        for name, listed in entries_of(path).items()
    }
    content = {"format": 1, "template": template, "files": files}
    path.write_text(json.dumps(content, indent=1) + "\n")
