"""The report: what it says, that nothing in it is markup of others, and how a browser shows it."""

import csv
import html.parser
import json
import pathlib
import re
import shutil
import time
import types
import xml.etree.ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from rmdnet_jax.app.audit import drawn, label_studio, page
from rmdnet_jax.errors import UserError

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror='window.pwned=1'>",
    "</script ><script >window.pwned=1</script >",
    "\"'><svg onload=window.pwned=1>",
    "=cmd()|'x'!A1",
    'two, with "quotes"\nand a line',
    "-1",
    "line\u2028 separator é 猫",
    "{{data}} {{title}} ${x}",
    "<!-- <script> &lt;b&gt;",
]


def found_in(size, classes, seed=0):
    """Label errors of random numbers, most suspect first, with each column of the contract."""
    rng = np.random.default_rng(seed)
    classes = np.array(classes)
    given, other = rng.integers(0, len(classes), (2, size))
    probability = rng.uniform(size=size)
    suggested = np.where(probability < 0.5, other, given)
    decision = np.where(probability < 0.3, "change", "in doubt")
    columns = {
        "index": np.arange(size),
        "given": classes[given],
        "suggested": classes[suggested],
        "probability": probability,
        "confidence": np.maximum(probability, 1 - probability),
        **{name: rng.uniform(size=size) for name in ("vote", "target", "probe", "margin")},
        "corrected_probe": rng.uniform(size=size),
        "outlier": rng.uniform(size=size),
        "duplicate": np.where(np.arange(size) % 50 == 7, np.arange(size)[::-1], -1),
        "decision": np.where(suggested == given, "keep", decision),
    }
    table = pd.DataFrame(columns).sort_values("probability", ignore_index=True)
    square = (len(classes), len(classes))
    quality = {"class": classes, "examples": np.bincount(given, minlength=len(classes))}
    return types.SimpleNamespace(
        table=table,
        classes=classes,
        noise_rate=0.25,
        noise_interval=(0.2, 0.3),
        transition=np.full(square, 1 / len(classes)),
        transition_error=np.full(square, 0.01),
        quality=pd.DataFrame(
            {**quality, "right": np.linspace(0.9, 0.4, len(classes)), "low": 0, "high": 1}
        ),
        in_doubt=False,
        reason="About 25% of the labels look wrong.",
        neighbours=rng.integers(0, size, (size, 10)).astype(np.int32),
        summary={},
    )


def data_of(path):
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*)</script>', path.read_text()
    )
    return json.loads(text)


def written(tmp_path, found, **options):
    page.write(tmp_path / "report.html", found, **options)
    return data_of(tmp_path / "report.html")


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, [name for name, _ in attrs]))


def test_a_page_holds_texts_of_others_as_data_only(tmp_path):
    found = found_in(300, HOSTILE)
    found.reason = HOSTILE[0]
    names = [f"{i} {HOSTILE[i % 10]}" for i in range(300)]
    texts = [HOSTILE[(i + 1) % 10] for i in range(300)]
    data = written(tmp_path, found, names=names, texts=texts)
    text = (tmp_path / "report.html").read_text()
    template = pathlib.Path(page.__file__).with_name("page.html").read_text()
    assert Tags(text).seen == Tags(template).seen
    assert "\u2028" not in text
    assert (data["reason"], data["classes"]) == (HOSTILE[0], HOSTILE)
    for name, text, index in zip(*(data["rows"][key] for key in ("name", "text", "index"))):
        assert (name, text) == (names[index], texts[index])


def test_a_policy_names_the_only_script_and_style(tmp_path):
    import base64
    import hashlib

    written(tmp_path, found_in(40, ["cat", "dog"]))
    text = (tmp_path / "report.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in re.sub("http-equiv", "", text.split("<script type")[0])
    for tag in ("script", "style"):
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_suspects_are_those_that_deserve_a_look(tmp_path):
    found = found_in(2000, ["cat", "dog", "owl"])
    rows = found.table.to_dict("records")
    expected = [
        i
        for i, row in enumerate(rows)
        if row["decision"] != "keep" or row["probability"] < 0.5 or row["duplicate"] >= 0
    ]
    assert page.suspects(found).tolist() == expected
    data = written(tmp_path, found)
    shown = [rows[i]["index"] for i in expected]
    assert data["rows"]["index"][: data["suspects"]] == shown
    assert len(set(data["rows"]["index"])) == len(data["rows"]["index"])


def test_where_few_are_suspect_the_least_likely_are_shown(tmp_path):
    found = found_in(1000, ["cat", "dog"])
    found.table["decision"], found.table["duplicate"] = "keep", -1
    found.table["probability"] = np.linspace(0.9, 1, 1000)
    data = written(tmp_path, found)
    assert data["suspects"] == page.FEWEST
    assert data["rows"]["index"][: page.FEWEST] == found.table["index"].tolist()[: page.FEWEST]


def test_rows_are_those_of_the_table(tmp_path):
    found = found_in(500, ["cat", "dog", "owl"])
    found.table.loc[3, "outlier"] = np.nan
    data = written(tmp_path, found)
    rows, labels = data["rows"], dict(zip(found.table["index"], found.table["given"]))
    by_index = found.table.set_index("index")
    for k, index in enumerate(rows["index"]):
        row = by_index.loc[index]
        assert data["classes"][rows["given"][k]] == row["given"]
        assert data["classes"][rows["suggested"][k]] == row["suggested"]
        assert rows["probability"][k] == pytest.approx(row["probability"], abs=1e-4)
        assert rows["near"][k] == found.neighbours[index, : drawn.NEAR].tolist()
        near = [data["classes"][label] for label in rows["nearGiven"][k]]
        assert near == [labels[i] for i in rows["near"][k]]
    assert rows["signals"]["outlier"][3] is None


def test_what_is_said_of_all_labels_is_counted(tmp_path):
    found = found_in(700, [3, 5, 11])
    clean = np.random.default_rng(1).choice([3, 5, 11], 700)
    data = written(tmp_path, found, clean=clean)
    counts = np.zeros((3, 3), int)
    bins = [[] for _ in range(10)]
    for row in found.table.to_dict("records"):
        counts[[3, 5, 11].index(row["given"]), [3, 5, 11].index(row["suggested"])] += 1
        right = clean[row["index"]] == row["given"]
        bins[int(row["probability"] * 10)].append((row["probability"], right))
    assert data["matrices"]["counts"] == counts.tolist()
    assert [pair[2] for pair in data["pairs"]] == sorted(counts[~np.eye(3, dtype=bool)])[::-1]
    for (low, high, n, mean, share), inside in zip(data["reliability"], bins):
        assert (n, mean, share) == (
            len(inside),
            pytest.approx(np.mean([p for p, _ in inside]), abs=1e-4),
            pytest.approx(np.mean([right for _, right in inside]), abs=1e-4),
        )
        assert low <= mean <= high
    assert data["classes"] == ["3", "5", "11"]


def test_no_truth_is_claimed_where_none_is_known(tmp_path):
    data = written(tmp_path, found_in(100, ["cat", "dog"]))
    assert {row[4] for row in data["reliability"]} == {None}


def test_many_classes_come_as_pairs(tmp_path):
    data = written(tmp_path, found_in(3000, [f"class {i:03d}" for i in range(200)]))
    assert data["matrices"] is None
    assert len(data["pairs"]) == 100
    assert [n for _, _, n, _, _ in data["pairs"]] == sorted(p[2] for p in data["pairs"])[::-1]


def picture(index):
    return np.random.default_rng(index).integers(0, 256, (120, 240, 3), np.uint8)


def test_pictures_are_of_the_most_suspect_and_of_their_neighbours(tmp_path):
    found = found_in(1500, ["cat", "dog"])
    asked = []

    def image(index):
        asked.append(index)
        return None if index % 3 == 0 else np.full((120, 240, 3), index % 256, np.uint8)

    data = written(tmp_path, found, images=image)
    first = data["rows"]["index"][: drawn.PICTURED]
    near = found.neighbours[first[: drawn.SURROUNDED], : drawn.NEAR].ravel().tolist()
    assert sorted(asked) == sorted({*first, *near})
    assert {int(i) for i in data["pictures"]} == {i for i in {*first, *near} if i % 3}


def test_pictures_are_small_and_end_where_the_file_would_grow_large(tmp_path, monkeypatch):
    import base64
    import io

    from PIL import Image

    monkeypatch.setattr(drawn, "BYTES", 200_000)
    found = found_in(900, ["cat", "dog"])
    data = written(tmp_path, found, images=picture)
    sizes = [len(uri) for uri in data["pictures"].values()]
    assert 150_000 < sum(sizes) <= 200_000
    indices = data["rows"]["index"][: len(sizes)]
    assert {int(i) for i in data["pictures"]} == set(indices)
    uri = data["pictures"][str(indices[0])]
    made = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert made.size == (drawn.LARGE, drawn.LARGE // 2)


def test_a_map_lays_alike_features_side_by_side(tmp_path):
    found = found_in(400, ["cat", "dog", "owl"])
    group = np.random.default_rng(0).integers(0, 3, 400)
    noise = np.random.default_rng(1).normal(size=(400, 12))
    features = 10 * np.eye(12)[group] + noise
    data = written(tmp_path, found, features=features)
    again = written(tmp_path, found, features=features)
    assert data == again
    index = np.array(data["rows"]["index"])[data["map"]["row"]]
    assert sorted(index) == list(range(400))
    at = np.stack([data["map"]["x"], data["map"]["y"]], 1)
    far = ((at[:, None] - at[None]) ** 2).sum(-1) + 9 * np.eye(400)
    assert np.mean(group[index[far.argmin(1)]] == group[index]) > 0.98
    assert (at.min(), at.max()) == (0, 1)


def test_a_map_of_many_holds_the_most_suspect_and_some_others(monkeypatch):
    monkeypatch.setattr(drawn, "MAPPED", 60)
    found = found_in(500, ["cat", "dog"])
    chosen, at = drawn.places(found, np.random.default_rng(0).normal(size=(500, 4)))
    assert at.shape == (60, 2)
    assert len(set(chosen.tolist())) == 60
    assert chosen[:30].tolist() == found.table["index"].tolist()[:30]


@pytest.mark.parametrize("features", [np.ones((50, 3)), np.zeros((50, 1))])
def test_features_that_are_all_alike_have_no_map(tmp_path, features):
    assert written(tmp_path, found_in(50, ["cat", "dog"]), features=features)["map"] is None


@pytest.mark.parametrize("name", ["names", "texts", "features"])
def test_a_page_refuses_another_length(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} must have one for each of the 50 labels, got 49"):
        page.write(tmp_path / "r.html", found_in(50, ["a", "b"]), **{name: ["x"] * 49})
    assert not (tmp_path / "r.html").exists()


def test_a_page_takes_what_find_label_errors_gives(tmp_path):
    import rmdnet_jax as rmd

    group = np.repeat([0, 1, 2], 60)
    noise = np.random.default_rng(0).normal(size=(180, 5))
    features, labels = 4 * np.eye(5)[group] + noise, np.array(["cat", "dog", "owl"])[group]
    labels[:6] = "owl"
    found = rmd.find_label_errors(features, labels)
    data = written(tmp_path, found, features=features)
    assert data["size"] == 180
    assert set(data["rows"]["index"][:6]) == set(range(6))
    label_studio.write(tmp_path / "tasks.json", found)


# Label Studio


def tasks(tmp_path, found, **options):
    label_studio.write(tmp_path / "tasks.json", found, **options)
    return json.loads((tmp_path / "tasks.json").read_text())


def test_label_studio_gets_a_task_a_suspect_with_a_prediction(tmp_path):
    found = found_in(120, HOSTILE[:3])
    texts = [f"text {i} {HOSTILE[i % 10]}" for i in range(120)]
    got = tasks(tmp_path, found, texts=texts)
    rows = found.table.iloc[page.suspects(found)].to_dict("records")
    assert len(got) == len(rows)
    for task, row in zip(got, rows):
        assert task["data"]["text"] == texts[row["index"]]
        assert task["data"]["index"] == row["index"]
        assert task["data"]["given"] == row["given"]
        (prediction,) = task["predictions"]
        assert prediction["score"] == pytest.approx(row["confidence"], abs=1e-4)
        (result,) = prediction["result"]
        assert (result["from_name"], result["to_name"], result["type"]) == (
            "label", "text", "choices"
        )  # fmt: skip
        assert result["value"] == {"choices": [row["suggested"]]}
    setup = xml.etree.ElementTree.parse(tmp_path / "tasks.xml").getroot()
    assert setup.find("Text").attrib == {"name": "text", "value": "$text"}
    assert setup.find("Choices").attrib["toName"] == "text"
    assert [choice.attrib["value"] for choice in setup.iter("Choice")] == HOSTILE[:3]


def test_label_studio_is_told_where_pictures_lie(tmp_path):
    found = found_in(60, ["cat", "dog"])
    names = [f"cat/a picture {i}&x=1.png" for i in range(60)]
    task = tasks(tmp_path, found, names=names, root="photos")[0]
    index = task["data"]["index"]
    assert (
        task["data"]["image"]
        == f"/data/local-files/?d=photos/cat/a%20picture%20{index}%26x%3D1.png"
    )
    assert task["predictions"][0]["result"][0]["to_name"] == "image"
    urls = [f"https://example.org/{i}.png" for i in range(60)]
    assert tasks(tmp_path, found, names=urls)[0]["data"]["image"] == urls[index]
    ids = [f"customer {i}" for i in range(60)]
    assert tasks(tmp_path, found, names=ids)[0]["data"]["text"] == ids[index]
    assert tasks(tmp_path, found)[0]["data"]["text"] == f"row {index}"


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium, and the folder of its downloads."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs Chromium and chromedriver, as Debian's packages have them")
    folder = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = ["headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900"]
    flags += [f"disable-{part}" for part in ("gpu", "background-networking", "component-update")]
    for flag in (*flags, "disable-sync", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, Service(driver))
    made.set_page_load_timeout(30)
    made.folder = folder
    yield made
    made.quit()


class Page:
    """What a person does with the page."""

    def __init__(self, browser, path):
        self.browser, self.path = browser, path
        self.go("about:blank")
        about = {"origin": path.as_uri(), "storageTypes": "local_storage"}
        browser.execute_cdp_cmd("Storage.clearDataForOrigin", about)
        self.go(path.as_uri())

    def again(self):
        """Loads the page anew."""
        self.go("about:blank")  # a page reloaded may still be the old one for a moment
        self.go(self.path.as_uri())

    def go(self, address):
        """On a busy machine Chromium may miss that a page has loaded: then it is asked again."""
        from selenium.common.exceptions import TimeoutException

        for left in (2, 1, 0):
            try:
                return self.browser.get(address)
            except TimeoutException:
                if not left:
                    raise

    def __call__(self, script, *values):
        return self.browser.execute_script(script, *values)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def text(self, selector):
        return self.one(selector).text

    def choose(self, selector, text):
        from selenium.webdriver.support.ui import Select

        Select(self.one(selector)).select_by_visible_text(text)

    def press(self, keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(keys).perform()

    def shown(self):
        """The rows of the cards, in order."""
        return self(
            "return [...document.querySelectorAll('#cards .card')].map(c => +c.dataset.row)"
        )

    def wait(self, condition, what, seconds=10):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, what
            time.sleep(0.05)
        return value

    def exported(self):
        path = self.browser.folder / "reviewed.csv"
        path.unlink(missing_ok=True)
        self("document.getElementById('export').click()")
        self.wait(path.exists, "a download")
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def errors(self):
        return [line for line in self.browser.get_log("browser") if line["level"] != "INFO"]


NAMES = ["cat", "dog", "owl", "yak"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page that several tests open, its data, and what it was made from."""
    found = found_in(400, NAMES)
    given = found.table.sort_values("index")["given"]
    names = [f"{label}/{i:03d}.png" for i, label in enumerate(given)]
    features = np.random.default_rng(0).normal(size=(400, 5))

    def image(index):
        return None if index % 2 else picture(index)

    folder = tmp_path_factory.mktemp("report")
    data = written(folder, found, names=names, images=image, features=features)
    return folder / "report.html", data, found, names


@pytest.fixture
def opened(browser, report):
    path, data, found, names = report
    shown = Page(browser, path)
    shown.data, shown.found, shown.names = data, found, names
    index = data["rows"]["index"][: data["suspects"]]
    shown.suspects = found.table.set_index("index", drop=False).loc[index].reset_index(drop=True)
    yield shown
    assert shown.errors() == []


def test_a_page_opens_and_shows_the_most_suspect(opened):
    assert opened.shown() == list(range(48))
    assert opened.text("h1") == "Which labels are wrong?"
    assert "25%" in opened.text("#tiles")
    assert "20% to 30%" in opened.text("#tiles")
    flagged = sum(opened.found.table["decision"] != "keep")
    assert f"Suspects\n{flagged}\n{opened.data['suspects']} labels are shown" in opened.text(
        "#tiles"
    )
    first = opened.one("#cards .card")
    row = opened.found.table.iloc[0]
    for text in (opened.names[row["index"]], row["given"], row["suggested"]):
        assert text in first.text
    assert opened(
        "return [...document.querySelectorAll('img')].every(i => i.complete && i.naturalWidth)"
    )
    assert len(opened.all("#matrices table")) == 2
    quality = opened.found.quality.sort_values("right")
    heads = [head.text for head in opened.all("#quality tbody th")]
    assert heads == quality["class"].tolist() != NAMES


def test_in_doubt_a_page_knows_no_share_and_only_ranks(browser, tmp_path):
    found = found_in(300, NAMES)
    found.in_doubt = True
    written(tmp_path, found)
    shown = Page(browser, tmp_path / "report.html")
    assert "unknown\n95% interval 20% to 30%" in shown.text("#tiles")
    assert "only rank the labels" in shown.text("#review-how")


def test_a_card_says_what_is_known_and_no_more(browser, tmp_path):
    found = found_in(300, NAMES)
    found.neighbours[:] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    given = found.table.sort_values("index")["given"].tolist()
    data = written(tmp_path, found, texts=[f"text {i}" for i in range(300)])
    shown = Page(browser, tmp_path / "report.html")
    rows = data["rows"]
    row = next(i for i in range(48) if rows["given"][i] != rows["suggested"][i])
    near = [given[i] for i in range(1, 7)]
    tally = sorted({(-near.count(label), near.index(label), label) for label in near})
    lines = shown.one(f".card[data-row='{row}']").text.replace("\n", " ")
    one, two = NAMES[rows["given"][row]], NAMES[rows["suggested"][row]]
    percents = [rows["probability"][row], rows["confidence"][row]]
    first, second = (
        "<1%" if p < 0.01 else ">99%" if p > 0.99 else f"{100 * p:.{int(p < 0.1 or p > 0.9)}f}%"
        for p in percents
    )
    doubt = "in doubt " * (rows["decision"][row] == "in doubt")
    words = " · ".join(f"{label} ×{-n}" for n, _, label in tally)
    assert lines == (
        f"row {rows['index'][row]} Given {one} {first} Suggested {two} {second} {doubt}"
        f"text {rows['index'][row]} Neighbours: {words} Keep {one} Change to {two} Other …"
        + "".join(f" {name}" for name in NAMES if name not in (one, two))
    )


def test_of_very_many_classes_any_can_be_chosen(browser, tmp_path):
    data = written(tmp_path, found_in(300, [f"class {i:03d}" for i in range(150)]))
    shown = Page(browser, tmp_path / "report.html")
    before = len(shown.all("#cards option"))
    shown.one("#cards select").click()
    assert (before, len(shown.all("#cards .card:first-child option"))) == (48, 149)
    taken = (data["rows"]["given"][0], data["rows"]["suggested"][0])
    shown.choose("#cards select", f"class {next(i for i in range(9) if i not in taken):03d}")
    assert [row["mark"] for row in shown.exported()] == ["other"]


def test_filters_show_what_the_table_says(opened):
    table = opened.suspects
    opened.choose("#given", f"cat ({(table['given'] == 'cat').sum()})")
    rows = table.index[table["given"] == "cat"].tolist()
    assert opened.shown() == rows[:48]
    assert opened.text("#count").startswith(f"{len(rows)} of {len(table)} examples shown")
    opened.choose("#suggested", f"dog ({(table['suggested'] == 'dog').sum()})")
    assert (
        opened.shown()
        == table.index[(table["given"] == "cat") & (table["suggested"] == "dog")].tolist()[:48]
    )
    opened.one("#reset").click()
    opened.choose("#kind", "near-duplicate")
    assert opened.shown() == table.index[table["duplicate"] >= 0].tolist()
    opened.one("#reset").click()
    opened.choose("#kind", "change")
    assert opened.shown() == table.index[table["decision"] == "change"].tolist()[:48]
    opened.one("#reset").click()
    name = opened.names[table["index"][20]]
    opened.one("#search").send_keys(name.upper())
    opened.wait(lambda: opened.shown() == [20], "the search")
    opened("document.querySelector('.heat button').click()")
    seen = {
        (opened.data["rows"]["given"][i], opened.data["rows"]["suggested"][i])
        for i in opened.shown()
    }
    assert len(seen) == 1


@pytest.mark.parametrize("order", ["given", "suggested", "confidence", "outlier"])
def test_orders_sort_the_table(opened, order):
    table = opened.suspects.copy()
    opened("const s = document.getElementById('order'); s.value = arguments[0];"
           "s.dispatchEvent(new Event('change'))", order)  # fmt: skip
    down = order in ("confidence", "outlier")
    table[order] = table[order].round(4) if down else table[order]
    expected = table.sort_values(order, ascending=not down, kind="stable").index.tolist()
    assert opened.shown() == expected[:48]
    heads = [head.text for head in opened.all("#cards > h3")]
    assert heads == (
        []
        if down
        else [f"{order.title()}: {name}" for name in table[order][expected[:48]].unique()]
    )
    opened.one("#next").click()
    assert opened.shown() == expected[48:96]
    assert opened.text("#page") == f"Page 2 of {-(-len(table) // 48)}"


def test_marks_by_button_key_and_choice_are_exported_and_taken_back(opened, tmp_path):
    rows = opened.data["rows"]
    changed = [i for i in range(48) if rows["given"][i] != rows["suggested"][i]]
    one, two, three = changed[:3]
    opened.one(f".card[data-row='{one}'] [data-do=right]").click()
    opened.one(f".card[data-row='{two}'] [data-do=wrong]").click()
    other = next(
        n for k, n in enumerate(NAMES) if k not in (rows["given"][three], rows["suggested"][three])
    )
    opened.choose(f".card[data-row='{three}'] select", other)
    expected = [
        {
            "index": str(rows["index"][i]),
            "name": opened.names[rows["index"][i]],
            "given": NAMES[rows["given"][i]],
            "label": label,
            "mark": mark,
        }
        for i, label, mark in [
            (one, NAMES[rows["given"][one]], "right"),
            (two, NAMES[rows["suggested"][two]], "wrong"),
            (three, other, "other"),
        ]
    ]
    assert "3 marked: 1 right, 1 wrong, 1 other" in opened.text("#count")
    bins = [int(rows["probability"][i] * 10) for i in (one, two, three)]
    for k, line in enumerate(opened.all("#reliability tbody tr")):
        cells = [cell.text for cell in line.find_elements("css selector", "td")]
        share = f"{(bins[0] == k) / bins.count(k):.0%}" if k in bins else "–"
        assert cells[2:] == [str(bins.count(k)), share]
    assert opened.exported() == expected
    opened.again()
    assert "3 marked" in opened.text("#count")  # the browser kept them
    opened.choose("#marked", "not marked")
    left = [row for row in range(opened.data["suspects"]) if row not in (one, two, three)]
    assert opened.shown() == left[:48]
    opened.choose("#marked", "wrong")
    assert opened.shown() == [two]
    opened.one("#reset").click()
    opened.one("#clear").click()
    opened.browser.switch_to.alert.accept()
    assert "None marked" in opened.text("#count")
    kept = tmp_path / "kept.csv"
    shutil.copy(opened.browser.folder / "reviewed.csv", kept)
    kept.write_text(kept.read_text() + "999999,x,cat,dog,wrong\n0,x,cat,no such class,other\n")
    opened("document.getElementById('file').hidden = false")
    opened.one("#file").send_keys(str(kept))
    opened.wait(lambda: "3 marks taken" in opened.text("#said"), "the import")
    assert "2 rows left out" in opened.text("#said")
    assert opened.exported() == expected


def test_keys_mark_and_go_on(opened):
    rows = opened.data["rows"]
    opened.press("r")  # no example has the focus yet
    assert "None marked" in opened.text("#count")
    opened.press("jr")
    opened.press("r" if rows["given"][1] == rows["suggested"][1] else "w")
    focus = "return +document.activeElement.dataset.row"
    assert opened(focus) == 2
    opened.press("kk")
    assert opened(focus) == 0
    assert opened.exported()[0]["mark"] == "right"
    assert "2 marked" in opened.text("#count")
    opened.press("u")
    assert "1 marked" in opened.text("#count")
    opened("document.querySelectorAll('#cards .card')[47].focus()")
    opened.press("j")
    assert opened(focus) == 48
    opened.press("k")
    assert opened(focus) == 47
    opened.press("/")
    assert opened("return document.activeElement.id") == "search"
    opened.press("jk/")
    assert opened("return document.activeElement.value") == "jk/"


def test_where_a_browser_keeps_nothing_the_page_says_so(browser, report):
    deny = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied') }})"
    command = "Page.addScriptToEvaluateOnNewDocument"
    made = browser.execute_cdp_cmd(command, {"source": deny})
    try:
        browser.get(report[0].as_uri())
        shown = Page.__new__(Page)
        shown.browser = browser
        shown.one("#cards [data-do=right]").click()
        assert "1 marked: 1 right" in shown.text("#count")
        assert "keeps no marks" in shown.text("#count")
        assert len(shown.exported()) == 1
        assert shown.errors() == []
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", made)


def test_an_example_opens_from_its_card_and_from_the_map(opened):
    opened.one("#cards .name button").click()
    assert opened("return document.getElementById('dialog').open")
    text = opened.text("#dialog")
    assert "corrected probe" in text
    assert opened.names[opened.found.neighbours[opened.found.table["index"][0], 0]] in text
    opened.one("#dialog [data-do=right]").click()
    assert opened.one("#cards .card").get_attribute("data-mark") == "right"
    opened.one("#dialog form button").click()
    assert not opened("return document.getElementById('dialog').open")
    row = opened("""
      const canvas = document.getElementById('canvas'), box = canvas.getBoundingClientRect();
      const [x, y, row] = chart.points[5];
      for (const kind of ['pointermove', 'click']) canvas.dispatchEvent(
        new PointerEvent(kind, {clientX: box.x + x + 1, clientY: box.y + y + 1, bubbles: true}));
      return row""")
    assert opened.names[opened.data["rows"]["index"][row]] in opened(
        "return document.getElementById('tip').textContent"
    )
    assert int(opened.one("#dialog .card").get_attribute("data-row")) == row


def test_hostile_names_are_harmless(browser, tmp_path):
    found = found_in(300, HOSTILE)
    found.reason = HOSTILE[1]
    names = [f"{HOSTILE[i % 10]} {i}" for i in range(300)]
    texts = [f"{HOSTILE[(i + 3) % 10]} {i}" for i in range(300)]
    features = np.random.default_rng(0).normal(size=(300, 3))
    written(tmp_path, found, names=names, texts=texts, features=features)
    shown = Page(browser, tmp_path / "report.html")
    assert shown.text("#reason") == HOSTILE[1]
    for order in ("given", "suggested"):
        shown("const s = document.getElementById('order'); s.value = arguments[0];"
              "s.dispatchEvent(new Event('change'))", order)  # fmt: skip
    shown.one("#cards .name button").click()
    assert shown("return [window.pwned, document.querySelectorAll('svg, img').length]") == [None, 0]
    assert shown("return document.scripts.length") == 2
    shown("[...document.querySelectorAll('[data-do=right]')].forEach((b) => b.click())")
    for line in shown.exported():
        index = int(line["index"])
        for cell, text in (
            (line["name"], names[index]),
            (line["label"], found.table.set_index("index")["given"][index]),
        ):
            formula = text.startswith(("=", "+", "-", "@")) and text != "-1"
            assert cell == "'" * formula + text
    kept = shutil.copy(shown.browser.folder / "reviewed.csv", tmp_path / "kept.csv")
    before = shown.text("#count")
    shown("marks.clear(); save(); document.getElementById('file').hidden = false;"
          "document.getElementById('dialog').close()")  # fmt: skip
    shown.one("#file").send_keys(str(kept))
    shown.wait(lambda: "taken" in shown.text("#said"), "the import")
    assert shown.text("#count").split("shown.")[1] == before.split("shown.")[1]
    assert "left out" not in shown.text("#said")
    assert shown.errors() == []


@pytest.mark.parametrize(
    "classes", [NAMES, ["Donaudampfschifffahrt" * 4, *HOSTILE], list(range(150))]
)
def test_a_phone_never_scrolls_sideways(browser, tmp_path, classes):
    found = found_in(300, classes)
    texts = ["a-word-without-any-space" * 9] * 300
    features = np.random.default_rng(0).normal(size=(300, 3))
    written(tmp_path, found, names=texts, texts=texts, images=picture, features=features)
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        shown = Page(browser, tmp_path / "report.html")
        assert shown("return document.documentElement.scrollWidth") <= 360
        shown("document.querySelector('#cards .name button').click()")
        assert shown(
            "const d = document.getElementById('dialog'); return d.scrollWidth <= d.clientWidth"
        )
        assert shown.errors() == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_fifty_thousand_suspects_stay_quick(browser, tmp_path):
    found = found_in(60_000, [f"class {i}" for i in range(100)])
    found.table["decision"] = "change"
    names = [f"folder/{i:06d}.jpg" for i in range(60_000)]
    data = written(tmp_path, found, names=names)
    assert (data["suspects"], data["left"]) == (50_000, 10_000)
    assert (tmp_path / "report.html").stat().st_size < 40e6
    began = time.monotonic()
    shown = Page(browser, tmp_path / "report.html")
    assert len(shown.shown()) == 48
    shown.one("#search").send_keys(names[found.table["index"][49_999]])
    shown.wait(lambda: shown.shown() == [49_999], "the search")
    assert (
        time.monotonic() - began < 20
    )  # two seconds on one core; a page of all would take minutes
    assert shown("return document.getElementsByTagName('*').length") < 6000


def test_dark_and_print_keep_their_contrast(browser, tmp_path):
    """WCAG's 4.5 : 1 for text, on each ground that it stands on."""
    written(tmp_path, found_in(300, NAMES), texts=["words"] * 300)
    shown = Page(browser, tmp_path / "report.html")
    contrast = """
      const light = (color) => color.map((v) => v / 255)
        .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
      const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
      const rgb = (text) => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = text;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data];
      };
      const speaks = (node) => [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
      let least = [21, ''];
      for (const node of document.querySelectorAll('body *')) {
        if (!speaks(node) || !node.checkVisibility() || node.disabled) continue;
        if (node.matches('script, option')) continue;
        let at = node, back = [0, 0, 0, 0];
        for (; at && !back[3]; at = at.parentElement) {
          back = rgb(getComputedStyle(at).backgroundColor);
        }
        if (!back[3]) back = [255, 255, 255, 255];
        const both = [rgb(getComputedStyle(node).color), back].map((c) => light(c.slice(0, 3)));
        const value = (Math.max(...both) + .05) / (Math.min(...both) + .05);
        if (value < least[0]) least = [value, node.outerHTML.slice(0, 99)];
      }
      return least"""
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media, "features": features}
        )
        try:
            value, where = shown(contrast)
        finally:
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
        assert value >= 4.5, (media, scheme, where)


def test_points_of_the_map_stand_out_in_the_dark_and_in_print(browser, tmp_path):
    """WCAG's 3 : 1 for what is drawn, in the dark; a print has the colours of the light."""
    features = np.random.default_rng(0).normal(size=(200, 4))
    written(tmp_path, found_in(200, [f"class {i}" for i in range(10)]), features=features)
    shown = Page(browser, tmp_path / "report.html")
    colours = """
      const pen = document.getElementById('canvas').getContext('2d'), scale = devicePixelRatio || 1;
      return chart.points.map(([x, y]) => [...pen.getImageData(x * scale, y * scale, 1, 1).data])"""

    def seen(media, scheme, before):
        about = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": about})
        shown.wait(lambda: shown(colours) not in ([], before), "a map that is drawn anew")
        return shown(colours)

    def light(colour):
        part = np.asarray(colour) / 255
        line = np.where(part <= 0.03928, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        return line @ [0.2126, 0.7152, 0.0722]

    try:
        bright = seen("screen", "light", [])
        dark = seen("screen", "dark", bright)
        printed = seen("print", "dark", dark)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    dark = np.array(dark)
    part = dark[:, 3:] / 255
    over = part * dark[:, :3] + (1 - part) * [0x1B, 0x21, 0x26]  # the ground of a card
    assert min((light(over) + 0.05) / (light([0x1B, 0x21, 0x26]) + 0.05)) >= 3
    assert {*map(tuple, printed)} == {*map(tuple, bright)} != {*map(tuple, dark)}


def test_photographs_appear(browser, tmp_path):
    import io

    from PIL import Image

    path = SHARED / "data" / "cifar10_jpeg.npz"
    if not path.exists():
        pytest.skip("needs CIFAR-10, which lies outside the repository")
    with np.load(path) as data:
        blob, ends = data["train_blob"], data["train_offsets"]
    found = found_in(300, NAMES)

    def image(i):
        return np.asarray(Image.open(io.BytesIO(blob[ends[i] : ends[i + 1]].tobytes())))

    written(tmp_path, found, images=image)
    shown = Page(browser, tmp_path / "report.html")
    wide = shown(
        "return [...document.querySelectorAll('#cards .picture img')].map((i) => i.naturalWidth)"
    )
    assert wide == [32] * 48
