"""Joins parts' files into one: python -m benchmarks.gpu.merge docs/gpu.json PART.json ..."""

from __future__ import annotations

import json
import pathlib
import sys


def merged(known: list[dict], parts: list[dict]) -> list[dict]:
    """All parts; a row of a case that was measured before on the same device replaces it."""
    found = list(known)
    for part in parts:
        same = [old for old in found if _place(old) == _place(part)]
        if not same:
            found.append(part)
            continue
        again = [_case(row) for row in part["rows"]]
        kept = [row for row in same[0]["rows"] if _case(row) not in again]
        same[0]["rows"] = kept + part["rows"]
    return found


def _case(row: dict) -> tuple:
    return row["case"], row.get("batch"), row.get("epoch")


def _place(part: dict) -> tuple:
    return part["part"], part["environment"]["device"], part["environment"]["git"]


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    before = json.loads(target.read_text()) if target.exists() else []
    parts = [json.loads(pathlib.Path(path).read_text()) for path in sys.argv[2:]]
    target.write_text(json.dumps(merged(before, parts), indent=1) + "\n")
