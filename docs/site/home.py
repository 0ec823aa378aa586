"""Draws the figure of the home page from the run of `make demo`: python docs/site/home.py runs/demo

Test accuracy of three ways to train, each curve named beside its end.
"""

import json
import pathlib
import sys

import matplotlib.pyplot as plt

WAYS = {
    "controls/propagation": ("on corrected labels", "#2e7d32"),
    "relation_guided": ("with RMDNet", "#1565c0"),
    "controls/base": ("cross entropy alone", "#c62828"),
}

plt.rcParams["svg.hashsalt"] = "the same file each time"
lines = (pathlib.Path(sys.argv[1]) / "metrics.jsonl").read_text().splitlines()
rows = [json.loads(line) for line in lines]
figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for stage, (name, colour) in WAYS.items():
    points = [(row["epoch"], 100 * row["test_accuracy"]) for row in rows
              if row["stage"] == stage and "test_accuracy" in row]  # fmt: skip
    axes.plot(*zip(*points), color=colour, linewidth=2)
    end = points[-1]
    axes.annotate(name, end, (-4, 7), textcoords="offset points", ha="right", color=colour,
                  fontsize=13)  # fmt: skip
axes.set(xlabel="epoch", ylabel="test accuracy, %", xlim=(0, None), ylim=(0, 109))
axes.set_yticks(range(0, 101, 20))
axes.spines[["top", "right"]].set_visible(False)
axes.grid(alpha=0.3)
for part in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
    part.set_fontsize(13)
figure.savefig(
    pathlib.Path(__file__).with_name("home.svg"), metadata={"Date": None}, facecolor="white"
)
