"""Joins parts' files into one, and makes the table of their times.

python -m benchmarks.gpu.merge docs/gpu.json PART.json ... [--page docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import pathlib

from benchmarks.cost_figures import placed

MARKS = ("<!-- times on a GPU: made by benchmarks.gpu.merge -->", "<!-- end of times on a GPU -->")


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


def table(parts: list[dict]) -> str:
    """Markdown: a row of each time, in the order of the parts."""
    lines = [
        "| card, commit | part | what | batch | ms (lowest to highest; n) | images/s |",
        "|---|---|---|---|---|---|",
    ]
    for part in parts:
        about = part["environment"]
        place = f"{about['device']}, {about['git'][:7]} | {part['part']}"
        for row in part["rows"]:
            for name, batch, time in _times(row):
                rate = f"{1e3 * batch / time['ms']:,.0f}"
                spread = "{ms:.2f} ({low:.2f} to {high:.2f}; {n:.0f})".format_map(time)
                lines.append(f"| {place} | {name} | {batch:,} | {spread} | {rate} |")
    return "\n".join(lines) + "\n"


def _times(row: dict) -> list[tuple[str, int, dict]]:
    """(what, images, milliseconds with their spread) of whatever a row has timed."""
    found = [(row["case"], row["batch"], row)] if "ms" in row else []
    for name, time in row.items():
        if isinstance(time, dict) and "ms" in time:  # beside a step
            found.append((name, time["images"], time))
        elif isinstance(time, dict) and "seconds" in time:  # a rival
            spread = {kind: 1e3 * time["seconds"][key] for kind, key in _KINDS.items()}
            spread["n"] = time["seconds"]["n"]
            found.append((f"{row['case']}, {name}", row["batch"], spread))
    return found


_KINDS = {"ms": "median", "low": "low", "high": "high"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("parts", nargs="*", type=pathlib.Path)
    parser.add_argument("--page", type=pathlib.Path, help="puts the table between its two marks")
    args = parser.parse_args()
    before = json.loads(args.target.read_text()) if args.target.exists() else []
    found = merged(before, [json.loads(path.read_text()) for path in args.parts])
    args.target.write_text(json.dumps(found, indent=1) + "\n")
    if args.page:
        args.page.write_text(placed(args.page.read_text(), table(found), MARKS))


if __name__ == "__main__":
    main()
