"""Draws what every base method gains, from the tables of docs/results-tables.md themselves.

    python -m benchmarks.methods_figure

It writes docs/methods.png.
"""

from __future__ import annotations

import argparse
import pathlib
import re

from matplotlib.figure import Figure

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "results-tables.md"
# Noise -> method -> arm -> mean and standard deviation of the last accuracy, %.
Accuracies = dict[str, dict[str, dict[str, tuple[float, float]]]]
ARMS = ("alone", "+ RMDNet", "+ RMDNet, SimCLR", "+ corrected labels")


def accuracies(page: str) -> Accuracies:
    """What the two tables of the section hold."""
    part = page.split("### Every base method\n")[1].split("\n### ")[0]
    found: Accuracies = {}
    noise = ""
    arms: list[str] = []
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "method":
            arms = cells
        elif title := re.fullmatch(r"\*\*(.+)\*\*", cells[0]):
            noise = title[1]
        elif line.startswith("| `"):
            values = found.setdefault(noise, {}).setdefault(cells[0].strip("`"), {})
            for arm, cell in zip(arms, cells):  # gains have a sign, and accuracies none
                if arm in ARMS and (told := re.fullmatch(r"([\d.]+) ± ([\d.]+)", cell)):
                    values[arm] = float(told[1]), float(told[2])
    return found


def draw(found: Accuracies, path: pathlib.Path) -> None:
    """A panel a noise, a row a method, a colour an arm."""
    drawing = Figure(figsize=(5, 7.4), layout="constrained")
    panels = drawing.subplots(len(found), 1, sharex=True)
    for axes, (noise, methods) in zip(panels, found.items()):
        for number, arm in enumerate(ARMS):
            shown = [
                (i, *values[arm]) for i, values in enumerate(methods.values()) if arm in values
            ]
            rows, means, spreads = zip(*shown)
            heights = [row + 0.18 * (number - 1.5) for row in rows]
            axes.errorbar(means, heights, xerr=spreads, fmt="o", markersize=5, label=arm)
        axes.set_yticks(range(len(methods)), list(methods))
        axes.invert_yaxis()
        axes.set_title(noise)
        axes.grid(axis="x", alpha=0.3)
    panels[-1].set_xlim(right=100.5)
    panels[-1].set_xlabel("last accuracy, %: mean and s.d. of 10 seeds")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    drawing.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=PAGE.parent / "methods.png")
    draw(accuracies(PAGE.read_text()), parser.parse_args().out)


if __name__ == "__main__":
    main()
