"""The report for people: one HTML file, in which suspect labels are seen, marked and exported.

It needs no network and no server. Marks stay in the browser; their export is a CSV of the columns
`index`, `name`, `given`, `label`, `mark`, from which an experiment takes its labels.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmdnet_jax import files
from rmdnet_jax.app.audit.drawn import NEAR, PICTURED, SURROUNDED, Images, laid, places, thumbnails
from rmdnet_jax.errors import wrong
from rmdnet_jax.labels.audit import LabelErrors

MOST = 50_000  # suspects in the page
FEWEST = 200  # examples that are shown, suspect or not
WORDS = 600  # letters of a text; of the first suspects ten times as many
MATRIX = 20  # classes that a matrix can show
PAIRS = 100  # the commonest confusions, listed where no matrix is
SIGNALS = ("vote", "margin", "target", "probe", "corrected_probe", "model", "outlier")
BINS = np.linspace(0, 1, 11)


def write(
    path: pathlib.Path,
    found: LabelErrors,
    *,
    names: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    images: Images | None = None,
    features: np.ndarray | None = None,
    clean: np.ndarray | None = None,
) -> None:
    """Writes the report on label errors as one HTML file.

    Args:
      path: the file, which is replaced.
      found: what `find_label_errors` found in `n` examples.
      names: [n], ids or file names, by index.
      texts: [n], the words of each text, or of each row of a table.
      images: gives the picture of an index, uint8 [h, w, 3], or None.
      features: [n, d], for a map; None: no map.
      clean: [n], the right labels where they are known, to show how far probabilities hold.

    Raises:
      UserError: an argument has another length, or the file cannot be written.
    """
    size = len(found.table)
    for name, values in (("names", names), ("texts", texts), ("features", features)):
        if values is not None and len(values) != size:
            raise wrong(name, f"have one for each of the {size} labels, got {len(values)}")
    spots = None if features is None else places(found, features)
    shown, count = _shown(found, None if spots is None else spots[0])
    rows = _rows(found, shown, names, texts)
    content = {
        "key": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16],
        "suspects": count,
        "rows": rows,
        "pictures": {} if images is None else thumbnails(found, shown[:count], images),
        "map": None if spots is None else laid(spots, shown, found),
        **_facts(found, clean),
    }
    files.write_text(path, _page(content))


def suspects(found: LabelErrors) -> np.ndarray:
    """The rows of the table that deserve a look, ascending: not kept, unlikely or twice there."""
    table = found.table
    unlikely = table["probability"] < 0.5
    return np.flatnonzero(_flagged(found) | unlikely | (table["duplicate"] >= 0))


def _flagged(found: LabelErrors) -> np.ndarray:
    """Whether another label is suggested, bool [n], in the table's order."""
    return found.table["decision"].isin(["change", "in doubt"]).to_numpy()


def _shown(found: LabelErrors, mapped: np.ndarray | None) -> tuple[np.ndarray, int]:
    """The table's rows in the page: suspects, how many, then what these and the map refer to."""
    table = found.table
    first = np.union1d(np.arange(min(FEWEST, len(table))), suspects(found))[:MOST]
    index = table["index"].to_numpy()
    near = found.neighbours[index[first[:SURROUNDED]], :NEAR].ravel()
    others = [near, table["duplicate"].to_numpy()[first]]
    if mapped is not None:
        others.append(mapped)
    named = np.unique(np.concatenate(others))
    place = np.argsort(index)  # of each index in the table
    more = np.setdiff1d(place[named[named >= 0]], first)
    return np.concatenate([first, more]), len(first)


def _rows(
    found: LabelErrors,
    shown: np.ndarray,
    names: Sequence[str] | None,
    texts: Sequence[str] | None,
) -> dict[str, Any]:
    """The columns of the rows that are shown; classes by their number."""
    table = found.table.iloc[shown]
    index = table["index"].to_numpy()
    given = _numbered(found, "given")[np.argsort(found.table["index"].to_numpy())]  # by index
    near = found.neighbours[index, :NEAR]
    return {
        "index": index.tolist(),
        "name": None if names is None else [str(names[i]) for i in index],
        "text": None if texts is None else _texts([str(texts[i]) for i in index]),
        "given": given[index].tolist(),
        "suggested": _numbered(found, "suggested")[shown].tolist(),
        "probability": _numbers(table["probability"]),
        "confidence": _numbers(table["confidence"]),
        "decision": table["decision"].tolist(),
        "duplicate": table["duplicate"].tolist(),
        "signals": {name: _numbers(table[name]) for name in SIGNALS if name in table},
        "near": near.tolist(),
        "nearGiven": given[near].tolist(),
    }


def _numbered(found: LabelErrors, column: str) -> np.ndarray:
    """A column's classes by their number, in the table's order."""
    number = {label: i for i, label in enumerate(found.classes.tolist())}
    return np.array([number[label] for label in found.table[column].tolist()])


def _texts(texts: list[str]) -> list[str]:
    """Texts no longer than a page can hold; those of the first are left longer."""
    lengths = [10 * WORDS] * PICTURED + [WORDS] * len(texts)
    return [t if len(t) <= most else t[:most] + " …" for t, most in zip(texts, lengths)]


def _numbers(values: Any) -> list[Any]:
    """Rounded numbers for JSON, which knows no NaN."""
    numbers = np.asarray(values, float).round(4)
    made = numbers.astype(object)
    made[~np.isfinite(numbers)] = None
    return made.tolist()


def _facts(found: LabelErrors, clean: np.ndarray | None) -> dict[str, Any]:
    """What is said of all labels."""
    counts = np.zeros((len(found.classes), len(found.classes)), int)
    np.add.at(counts, (_numbered(found, "given"), _numbered(found, "suggested")), 1)
    low, high = found.noise_interval
    keys = ["examples", "right", "low", "high"]
    return {
        "classes": [str(label) for label in found.classes.tolist()],
        "reason": found.reason,
        "doubt": bool(found.in_doubt),
        "size": len(found.table),
        "left": max(0, len(suspects(found)) - MOST),
        "flagged": int(_flagged(found).sum()),
        "changed": int(np.sum(found.table["decision"] == "change")),
        "rate": _numbers([found.noise_rate, low, high]),
        "matrices": None if len(counts) > MATRIX else _matrices(found, counts),
        "pairs": _pairs(found, counts),
        "quality": [_numbers(row) for row in found.quality[keys].to_numpy(float)],
        "reliability": _reliability(found, clean),
    }


def _matrices(found: LabelErrors, counts: np.ndarray) -> dict[str, Any]:
    return {
        "counts": counts.tolist(),
        "transition": _numbers(found.transition),
        "error": _numbers(found.transition_error),
    }


def _pairs(found: LabelErrors, counts: np.ndarray) -> list[Any]:
    """Given, suggested, count, estimated share and its error of the commonest confusions."""
    confused = counts - np.diag(np.diag(counts))
    order = np.argsort(-confused, axis=None, kind="stable")[:PAIRS]
    rows = []
    for given, suggested in zip(*np.unravel_index(order, counts.shape)):
        if n := int(confused[given, suggested]):
            shares = (of[suggested, given] for of in (found.transition, found.transition_error))
            rows.append([int(given), int(suggested), n, *_numbers([*shares])])
    return rows


def _reliability(found: LabelErrors, clean: np.ndarray | None) -> list[Any]:
    """By probability: how many labels, their mean, and the share that is right if it is known."""
    probability = found.table["probability"].to_numpy(float)
    right = np.full(len(probability), np.nan)
    if clean is not None:
        right[:] = clean[found.table["index"].to_numpy()] == found.table["given"].to_numpy()
    bins = np.clip(np.digitize(probability, BINS) - 1, 0, len(BINS) - 2)
    rows = []
    for k, (low, high) in enumerate(itertools.pairwise(BINS)):
        inside = np.flatnonzero(bins == k)
        means = [np.mean(of[inside]) if len(inside) else np.nan for of in (probability, right)]
        rows.append([*_numbers([low, high]), len(inside), *_numbers(means)])
    return rows


def _page(content: dict[str, Any]) -> str:
    """The template with its data, whose text cannot become markup, and a policy that says so."""
    template = pathlib.Path(__file__).with_name("page.html").read_text("utf-8")
    data = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII: no U+2028
    for letter in "<>&":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    hashes = {tag: _hash(template, tag) for tag in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    parts = {"policy": policy, "data": data}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _hash(template: str, tag: str) -> str:
    """How a policy names the one script or style that may run."""
    (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    digest = hashlib.sha256(inside.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
