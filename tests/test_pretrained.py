"""Pretrained features: the benchmark's numbers beside slow lines, and what it refuses."""

import json

import numpy as np
import pytest
from conftest import ROOT, SHARED

from benchmarks import pretrained
from benchmarks.cells import Data

CLASSES, SIZE, DIM = 10, 200, 16


def features(label, spread, seed):
    """Rows around their class's own direction."""
    noise = np.random.default_rng(seed).normal(size=(len(label), DIM))
    return (4 * np.eye(CLASSES, DIM)[label] + spread * noise).astype(np.float32)


@pytest.fixture(scope="module")
def sets():
    label = np.arange(SIZE) % CLASSES
    rows = np.arange(SIZE)[::-1].copy()
    train = Data("tiny", features(label, 1.0, 0), label, rows=rows, moves=pretrained.CIFAR)
    return train, Data("tiny", features(label[:60], 1.5, 1), label[:60])


@pytest.fixture
def files(sets, tmp_path, monkeypatch):
    """The two files, in the folder where the command runs; `edit` changes an array of one."""
    monkeypatch.chdir(tmp_path)
    train, test = sets
    clean = np.zeros(SIZE, int)
    clean[train.rows] = train.clean
    content = {
        "features.npz": {"tiny_train": train.features, "tiny_test": test.features,
                         "train_index": train.rows, "train_label": train.clean,
                         "test_label": test.clean},
        "human.npz": {"clean_label": clean, "worse_label": (clean + (clean < 3)) % CLASSES,
                      "aggre_label": clean},
    }  # fmt: skip

    def edit(name, **arrays):
        content[name] |= arrays
        np.savez(name, **{key: array for key, array in content[name].items() if array is not None})

    edit("features.npz")
    edit("human.npz")
    return edit


def command(features="features.npz", human="human.npz", out="found.json", seeds="2"):
    words = ["--features", features, "--human", human, "--out", out, "--seeds", seeds]
    return pretrained.main(words)


def neighbours(bank, label, query, k=200, temperature=0.1):
    """The class of the largest sum of exp(cos / temperature), one query and one vote at a time."""
    said = []
    for row in query:
        cosines = [float(row @ x / np.linalg.norm(row) / np.linalg.norm(x)) for x in bank]
        votes = np.zeros(CLASSES)
        for near in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            votes[label[near]] += np.exp(cosines[near] / temperature)
        said.append(votes.argmax())
    return np.array(said)


def test_a_rows_numbers_are_those_of_slow_lines(sets):
    train, test = sets
    human = {"worse_label": np.zeros(SIZE, int)}
    human["worse_label"][train.rows] = given = np.where(train.clean == 3, 5, train.clean)
    row = pretrained.compared(train, test, "worse", human, seeds=2)
    assert row["before"] == [0.1, 0.1]
    said = neighbours(train.features, given, test.features)
    right = sum(int(a == b) for a, b in zip(said, test.clean)) / len(test.clean)
    assert row["accuracy"]["kNN"] == pytest.approx([right, right])
    for name, (mean, _) in row["gain"].items():
        by_seed = zip(row["accuracy"][name], row["accuracy"]["tuned probe"])
        assert mean == pytest.approx(sum(a - b for a, b in by_seed) / 2)
    assert row["gain"]["tuned probe"] == [0, 0]


def test_labels_are_corrected_before_the_second_half(sets):
    train, test = sets
    row = pretrained.compared(train, test, "sym50", {}, seeds=2)
    assert all(0.3 < rate < 0.6 for rate in row["before"])  # 45 % in the mean: inclusive
    assert max(row["after"]) < min(row["before"])
    assert row["gain"]["corrected probe"][0] > row["gain"]["probe"][0]


def test_the_strength_is_chosen_by_held_out_given_labels(sets):
    """Of wrong labels, the simplest predicts unseen ones best here; it is better on clean ones."""
    train, test = sets
    noise = np.random.default_rng(0)
    given = np.where(noise.random(SIZE) < 0.6, noise.integers(0, CLASSES, SIZE), train.clean)
    scores = []
    scaled = (train.features - train.features.mean(0)) / train.features.std(0)
    query = (test.features - train.features.mean(0)) / train.features.std(0)
    order = np.random.RandomState(7).permutation(SIZE)
    for strength in pretrained.STRENGTHS:
        right = 0
        for fold in range(5):
            held = order[fold * SIZE // 5 : (fold + 1) * SIZE // 5]
            heard = np.setdiff1d(order, held)
            model = pretrained.LogisticRegression(C=strength, max_iter=1000, tol=1e-6)
            model.fit(scaled[heard], given[heard])
            right += sum(model.predict(scaled[held]) == given[held])
        scores.append(right)
    model.set_params(C=pretrained.STRENGTHS[int(np.argmax(scores))]).fit(scaled, given)
    found = pretrained.tuned_probe(train.features, given, test.features, seed=7)
    assert np.mean(found == model.predict(query)) > 0.95


def test_a_gain_bears_the_error_of_seeds_and_of_examples():
    x = np.random.default_rng(0).normal(size=(3, 50))
    seeds = np.std([np.mean(row) for row in x], ddof=1) / 3**0.5
    examples = np.std([np.mean(column) for column in x.T], ddof=1) / 50**0.5
    assert pretrained.gain(x) == pytest.approx([np.mean(x), np.hypot(seeds, examples)])


def test_the_command_writes_all_numbers_and_a_table(files, capsys):
    assert command() == 0
    with open("found.json") as file:
        rows = json.load(file)
    assert [row["noise"] for row in rows] == list(pretrained.NOISES)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(rows)
    for line, row in zip(table[2:], rows):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == ["tiny", pretrained.NOISES[row["noise"]]]
        x = 100 * np.array(row["accuracy"]["kNN"])
        assert cells[5] == f"{sum(x) / 2:.1f} ± {abs(x[0] - x[1]) / 2**0.5:.1f}"


@pytest.mark.parametrize(
    ("name", "arrays", "line"),
    [
        ("features.npz", {"train_label": None}, "features must be as --help says"),
        ("features.npz", {"tiny_test": None}, "hold a row of tiny_train and tiny_test"),
        ("features.npz", {"tiny_train": np.zeros((3, 2))}, "hold a row of tiny_train"),
        ("features.npz", {"tiny_train": np.array([{}])}, "features must be as --help says"),
        ("human.npz", {"worse_label": None}, "human must be as --help says"),
        ("human.npz", {"clean_label": np.zeros(SIZE, int)}, "human must have as clean_label"),
    ],
)
def test_a_bad_file_is_one_line(files, capsys, name, arrays, line):
    files(name, **arrays)
    assert command() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert line in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"features": "none.npz"}, "features must be as --help says, got 'none.npz'"),
        ({"human": "broken.npz"}, "human must be as --help says, got 'broken.npz'"),
        ({"out": "no/such/found.json"}, "out must be in a folder that exists"),
        ({"seeds": "1"}, "seeds must be >= 2"),
    ],
)
def test_bad_words_are_one_line(files, capsys, tmp_path, words, line):
    (tmp_path / "broken.npz").write_bytes(b"PK but no archive")
    assert command(**words) == 2
    said = capsys.readouterr()
    assert line in said.err
    assert said.err.count("\n") == 1


def test_the_page_shows_the_numbers_that_are_stored():
    rows = json.loads((ROOT / "docs" / "pretrained.json").read_text())
    assert pretrained.markdown(rows) in (ROOT / "docs" / "results-tables.md").read_text()


def test_the_first_page_is_short_and_plain():
    from test_docs import sentences

    text = (ROOT / "docs" / "results.md").read_text()
    lengths = [len(words) for words in sentences(text)]
    assert sum(lengths) / len(lengths) <= 13
    assert max(lengths) <= 30
    assert max(line.count("|") for line in text.splitlines()) <= 6  # five columns


def test_real_features_agree_with_peoples_labels():
    folder = SHARED / "data"
    if not (folder / "embeddings.npz").exists():
        pytest.skip("needs embeddings of CIFAR-10, which lie outside the repository")
    paths = [str(folder / name) for name in ("embeddings.npz", "cifar10n.npz")]
    sets, human = pretrained.read(*paths)
    assert [train.name for train, _ in sets] == ["dino", "clip"]
    wrong = np.mean(human["worse_label"][sets[0][0].rows] != sets[0][0].clean)
    assert 0.3 < wrong < 0.5
