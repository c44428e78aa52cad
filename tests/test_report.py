"""The report: what its page says of a run, and how it is used, in a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from drawn import draw_discs
from waiting import wait_until

from nuclei.competition.submission import encode_labels, make_rows, write_submission
from nuclei.prediction.metric import IOU_THRESHOLDS, average_precision, precision_at_thresholds
from nuclei.settings.config import BadInput
from nuclei_kit.command.cli import main
from nuclei_kit.report import report
from nuclei_kit.report.outcomes import FN, FP, MERGE, TP
from nuclei_kit.report.report import outlines, write_report

HOSTILE = """<!--<script>"'&$data<img src=x onerror=alert(1)>"""  # all that a file's name may hold
DISCS = ((20, 20, 12), (20, 60, 10), (70, 30, 11), (70, 52, 11))
TRUTH = draw_discs((100, 120), *DISCS)
# What was found: the first disc, the last two as one, and one that is not there. The second is missed.
FOUND = np.where(TRUTH == 1, 1, 0).astype(np.int32)
FOUND[58:83, 18:65] = 2
FOUND[80:95, 90:110] = 3
CONFIDENCES = {"test-a": (0.9, 0.8, 1.0), "test-b": (0.75, 0.97, 0.5)}
PERFECT = TRUTH.copy()
OTHER = np.where(TRUTH == 1, 1, 0).astype(np.int32)


def write_png(path, pixels):
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), pixels)


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """Two training images with masks, one with a hostile name, and two test images."""
    folder = tmp_path_factory.mktemp("competition")
    image = np.where(TRUTH > 0, 200, 20).astype(np.uint8)
    for image_id in ("held-a", HOSTILE):
        home = folder / "stage1_train" / image_id
        write_png(home / "images" / "image.png", image)
        (home / "masks").mkdir()
        for label in range(1, 5):
            cv2.imwrite(str(home / "masks" / f"{label}.png"), np.where(label == TRUTH, 255, 0).astype(np.uint8))
    for image_id, light in (("test-a", 0), ("test-b", 255)):
        write_png(folder / "stage1_test" / image_id / "images" / "image.png", image ^ light)
    return folder


def write_run(folder, found, test):
    """A run's folder as training would leave it: what it found in the held-out images, and in the test images."""
    folder.mkdir()
    held_out = {"held-a": found, HOSTILE: PERFECT}
    write_submission(folder / "held_out_nuclei.csv", [r for i, one in held_out.items() for r in make_rows(i, one)])
    write_submission(folder / "submission.csv", [r for i in ("test-a", "test-b") for r in make_rows(i, test)])
    content = {"config": {"model_name": "</script><b>", "model_width": 32}, "versions": {"keras": "3.15"}}
    content |= {"thresholds": {"small": {"seed": 0.25, "grow": 0.0}, "large": {"seed": 0.5, "grow": 1.5}}}
    content |= {"thresholds_from": "chosen on 7 images", "earlier_thresholds": [{"thresholds": {}}]}
    (folder / "config.json").write_text(json.dumps(content))
    log = "step,seconds,learning_rate,loss,tuning_score\n9,60,0.1,1.5,\n20,120,0.1,0.75,0.5\n30,180,0.1,0.5,0.625\n"
    (folder / "log.csv").write_text(log)
    pairs = [(i, n) for i in ("test-a", "test-b") for n in range(test.max())]
    confidences = "".join(f"{i},{n + 1},{CONFIDENCES[i][n]}\n" for i, n in pairs)
    (folder / "confidence.csv").write_text("ImageId,nucleus,confidence\n" + confidences)
    stages = "stage,seconds,images,peak_gb\nread test,1.0,0,0.5\ntrain,180.0,400,2.5\n"
    (folder / "stages.csv").write_text(stages)
    return folder


def spoil(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def run(tmp_path_factory, competition):
    return write_run(tmp_path_factory.mktemp("runs") / "first run", FOUND, FOUND)


@pytest.fixture(scope="module")
def page(run, competition):
    assert main(["report", str(run), "--data", str(competition)]) == 0
    return run / "report.html"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, run, competition):
    """The report of a run against another that found less."""
    copy = shutil.copytree(run, tmp_path_factory.mktemp("compared") / "first run")
    other = write_run(copy.parent / "second", OTHER, OTHER)
    return write_report(copy, competition, against=other)


class Reader(HTMLParser):
    """What a browser's parser makes of a page: its elements, its text, the JSON in it, and its tables, by rows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.said, self.data, self.tables, self._inside = [], [], "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = dict(attributes).get("id") if tag == "script" else tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, text):
        if self._inside == "data":
            self.data += text
        elif text.strip():
            self.said.append(text.strip())
        if self._inside in ("th", "td"):
            self.tables[-1][-1].append(text)

    def row(self, title, name, number=0):
        """{column: cell} of the row `name`, in table `number` of those whose first column is called `title`."""
        head, *rows = [table for table in self.tables if table[0][0] == title][number]
        return dict(zip(head, next(row for row in rows if row[0] == name), strict=True))


# ---- what the page says ------------------------------------------------------------------------


def test_the_page_has_the_scores(page):
    page = Reader(page.read_text())
    mean = f"{(average_precision(TRUTH, FOUND) + 1) / 2:.3f}"
    for words in (mean, "first run", "loss"):
        assert words in page.said
    scores = page.row("kind", "all")
    assert (scores["images"], scores["score"]) == ("2", mean)
    precision = (precision_at_thresholds(TRUTH, FOUND) + 1) / 2
    assert [scores[f"{t:.2f}"] for t in IOU_THRESHOLDS] == [f"{value:.2f}" for value in precision]
    assert page.row("stage", "train")["seconds"] == "180.0"
    assert page.row("versions", "keras")["value"] == "3.15"
    assert page.row("thresholds", "small") == {"thresholds": "small", "seed": "0.25", "grow": "0.0"}
    assert page.row("thresholds", "large")["grow"] == "1.5"
    assert "thresholds chosen on 7 images" in page.said


def test_the_page_counts_the_outcomes(page):
    page = Reader(page.read_text())
    true = {"nuclei": "true", "all": "8", "matched": "5", "missed": "1", "invented": "0", "merged": "2", "split": "0"}
    assert page.row("nuclei", "true") == true
    assert page.row("nuclei", "predicted") == true | {
        "nuclei": "predicted",
        "all": "7",
        "missed": "0",
        "invented": "1",
        "merged": "1",
    }


def test_the_page_has_every_image_and_nucleus(page):
    images = json.loads(Reader(page.read_text()).data)["images"]
    assert [image["id"] for image in images] == [*sorted([HOSTILE, "held-a"]), "test-a", "test-b"]
    held = next(image for image in images if image["id"] == "held-a")
    assert held["score"] == pytest.approx(average_precision(TRUTH, FOUND))
    assert [outcome for outcome, _, _ in held["truth"]] == [TP, FN, MERGE, MERGE]
    assert [outcome for outcome, _, _ in held["found"]] == [TP, MERGE, FP]
    assert [iou for _, iou, _ in held["found"]][::2] == [1, 0]
    assert (images[3]["truth"], images[3]["score"], len(images[3]["found"])) == (None, None, 3)
    assert [image["confidences"] for image in images] == [None, None, [0.9, 0.8, 1.0], [0.75, 0.97, 0.5]]
    assert held["source"].startswith("data:image/webp;base64,")


def test_however_many_images_the_page_stays_small(run, competition, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURES_ROOM", 1000)
    copy = shutil.copytree(run, tmp_path / "run")
    images = json.loads(Reader(write_report(copy, competition).read_text()).data)["images"]
    assert len(images) == 4 and sum(len(image["source"]) for image in images) <= 1000


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text()
    named = [attributes.get(name) for _, attributes in Reader(text).tags for name in ("src", "href")]
    links = [link for link in named if link]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "default-src 'none'" in text
    assert len([tag for tag, _ in Reader(text).tags if tag == "script"]) == 2


def test_a_solution_gives_the_test_images_their_truth(run, competition, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    rows = [f"{i},{rle},100,120,Public\n" for i in ("test-a", "test-b") for rle in encode_labels(TRUTH)]
    (tmp_path / "solution.csv").write_text("ImageId,EncodedPixels,Height,Width,Usage\n" + "".join(rows))
    assert main(["report", str(copy), "--data", str(competition), "--solution", str(tmp_path / "solution.csv")]) == 0
    page = Reader((copy / "report.html").read_text())
    scores = page.row("kind", "all", 1)  # the first table is about the held-out images
    assert (scores["images"], scores["score"]) == ("2", f"{average_precision(TRUTH, FOUND):.3f}")


def test_without_data_there_are_scores_and_no_images(run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NUCLEI_DATA", raising=False)
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "held_out.csv").write_text("ImageId,kind,score\na,purple,0.25\nb,brown,0.75\n")
    assert main(["report", str(copy)]) == 0
    assert "no images" in capsys.readouterr().out
    page = Reader((copy / "report.html").read_text())
    assert [page.row("kind", name)["score"] for name in ("purple", "brown", "all")] == ["0.250", "0.750", "0.500"]
    assert json.loads(page.data)["images"] == []


def test_a_comparison_says_how_much_and_how_sure(comparison):
    said = Reader(comparison.read_text()).said
    difference = (average_precision(TRUTH, FOUND) - average_precision(TRUTH, OTHER)) / 2
    assert "Against second" in said
    assert f"{difference:+.3f}" in said


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (lambda f: [path.unlink() for path in f.iterdir()], {}, ["config.json"]),
        (lambda f: (f / "config.json").write_text("["), {}, ["config.json", "settings"]),
        (lambda f: write_submission(f / "held_out_nuclei.csv", [("x", "")]), {}, ["held_out_nuclei.csv", "x"]),
        (lambda f: write_submission(f / "submission.csv", [("x", "")]), {}, ["submission.csv", "x"]),
        (lambda f: spoil(f / "confidence.csv", "test-b,3", "test-a,3"), {}, ["confidence.csv", "test-a"]),
        (lambda f: spoil(f / "confidence.csv", "0.97", "NaN"), {}, ["confidence.csv", "'NaN'"]),
        (lambda f: spoil(f / "stages.csv", "180.0", "long"), {}, ["stages.csv", "'long'"]),
        (lambda f: spoil(f / "log.csv", "0.75", "<b>"), {}, ["log.csv", "'<b>'"]),
        (lambda f: None, {"data": None, "against": "other"}, ["--data"]),
    ],
)
def test_bad_input_is_a_sentence(run, competition, tmp_path, damage, options, words):
    copy = shutil.copytree(run, tmp_path / "run")
    damage(copy)
    with pytest.raises(BadInput) as error:
        write_report(copy, **({"data": competition} | options))
    for word in words:
        assert word in str(error.value)


def test_outlines_enclose_their_nuclei():
    labels = draw_discs((60, 80), (20, 20, 12), (40, 60, 9))
    labels[5, 70] = 4  # a single pixel; label 3 is missing
    paths = outlines(labels)
    assert len(paths) == 3
    for label, path in zip((1, 2, 4), paths, strict=True):
        start, steps = re.fullmatch(r"M([\d. ]+)l([-\d ]+)z", path).groups()
        corner = np.array(start.split(), float)
        corners = corner + np.cumsum(np.array(steps.split(), int).reshape(-1, 2), axis=0) - 0.5
        drawn = cv2.fillPoly(np.zeros(labels.shape, np.uint8), [corners.astype(np.int32)], 1)
        assert np.count_nonzero(drawn != (labels == label)) <= 0.05 * np.count_nonzero(labels == label)


# ---- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium; the tests are skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("background-networking", "component-update", "sync", "quic", "gpu")
    for flag in ("headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in quiet)):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as running:
        yield running


class Visit:
    """A page, open in a browser: what a reader sees there and does."""

    def __init__(self, browser, page, fragment="", width=1280):
        self.browser = browser
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        browser.get("about:blank")
        browser.get(page.as_uri() + fragment)

    def send(self, command, **arguments):
        return self.browser.execute_cdp_cmd(command, arguments)

    def ask(self, script, *arguments):
        return self.browser.execute_script(f"return {script}", *arguments)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        (element,) = self.all(selector)
        return element

    def text(self, selector):
        return self.ask("document.querySelector(arguments[0]).textContent", selector)

    def open(self, number):
        """Click on the link of a card; the page hears of its new address a moment later."""
        self.all(".card a")[number].click()
        wait_until(self.one("#viewer").is_displayed)

    def choose(self, name, value):
        self.one(f"#{name} option[value='{value}']").click()

    def type(self, *keys):
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def scores(self):
        return [element.text for element in self.all(".card strong")]

    def view(self):
        return [float(x) for x in self.one("#stage svg").get_dom_attribute("viewBox").split()]

    def wait_for_nucleus(self, *words):
        """Wait until the line about the chosen nucleus has all these words."""
        wait_until(lambda: all(word in self.text("#nucleus") for word in words))

    def wait_for_image(self, image_id):
        """Wait until the viewer shows this image."""
        wait_until(lambda: self.one("#viewer").is_displayed() and self.text("#viewer-title") == image_id)

    def wait_for_close(self):
        """Wait until the viewer is closed, and the address with it."""
        wait_until(lambda: not self.one("#viewer").is_displayed() and self.ask("location.hash") == "")

    def hover(self, side, index):
        """Move the pointer to the middle of a nucleus."""
        box = f"document.querySelector('[data-side={side}][data-index=\"{index}\"]').getBoundingClientRect()"
        x, y, width, height = self.ask(f"(b => [b.x, b.y, b.width, b.height])({box})")
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y + height / 2)


@pytest.fixture
def visit(browser):
    def open_page(*arguments, **options):
        return Visit(browser, *arguments, **options)

    yield open_page
    assert [entry["message"] for entry in browser.get_log("browser")] == []


@pytest.mark.slow
def test_the_wall_sorts_and_filters(visit, page):
    at = visit(page)
    low = f"{average_precision(TRUTH, FOUND):.3f}"
    assert at.scores() == [low, "1.000", "3 nuclei", "3 nuclei"]
    at.choose("sort", "highest score")
    assert at.scores()[:2] == ["1.000", low]
    at.choose("error", "merge")
    assert at.scores() == [low]
    at.choose("error", "none")
    assert at.scores() == ["1.000"]
    assert at.text("#count").startswith("1 of 4")
    at.choose("error", "split")
    assert at.scores() == [] and at.one("#nothing").is_displayed()
    at.choose("error", "")
    at.choose("part", "test")
    assert len(at.scores()) == 2


@pytest.mark.slow
def test_without_truth_the_least_sure_come_first(visit, page):
    at = visit(page)
    at.choose("sort", "least sure")
    names = [link.get_attribute("title") for link in at.all(".card a")]
    assert names[:2] == ["test-b", "test-a"]  # means of 0.74 and 0.9; where nothing is known they come last
    assert "0.740" in at.all(".card p + p span")[0].text
    at.open(0)
    at.type("3")
    strokes = "[...document.querySelectorAll('#stage .found .outline')].map(path => getComputedStyle(path).stroke)"
    assert len(set(at.ask(strokes))) == 3  # each its own colour, by how sure it is
    at.type("n")
    at.wait_for_nucleus("nucleus 3", "0.500")  # the keys begin with the least sure
    at.hover("found", 1)
    at.wait_for_nucleus("nucleus 2", "0.970")


@pytest.mark.slow
def test_without_any_truth_there_is_nothing_to_compare(visit, run, competition, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "held_out_nuclei.csv").unlink()
    at = visit(write_report(copy, competition))
    assert [link.get_attribute("title") for link in at.all(".card a")] == ["test-b", "test-a"]
    layers = [box.get_dom_attribute("value") for box in at.all("#layers input")]
    assert layers == ["image", "prediction"]
    assert not at.one("#error").is_displayed()


@pytest.mark.slow
def test_the_layers_switch_in_place(visit, page):
    at = visit(page)
    seen = "[...document.querySelectorAll('.card:first-child g')].filter(g => g.getBoundingClientRect().width).length"
    counts = {}
    for layer in ("image", "truth", "prediction", "differences"):
        at.one(f"#layers input[value={layer}]").click()
        counts[layer] = at.ask(seen)
    # Groups by outcome: 3 of the truth, 3 of the prediction, and of the differences all but the true nuclei found.
    assert counts == {"image": 0, "truth": 3, "prediction": 3, "differences": 5}


@pytest.mark.slow
def test_an_image_opens_zooms_and_closes(visit, page):
    at = visit(page)
    at.open(0)
    at.wait_for_image("held-a")
    assert at.ask("location.hash") == "#image=held-a"
    assert at.view() == [0, 0, 120, 100]
    at.one("#larger").click()
    assert at.view()[2] == pytest.approx(80)
    at.type("-")
    assert at.view() == pytest.approx([0, 0, 120, 100])
    x, y = 640, 450  # within the picture
    at.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-200)
    wait_until(lambda: at.view()[2] < 100)
    before = at.view()
    for kind, right in (("mousePressed", 0), ("mouseMoved", 50), ("mouseReleased", 50)):
        at.send("Input.dispatchMouseEvent", type=kind, x=x + right, y=y, button="left", buttons=1, clickCount=1)
    wait_until(lambda: at.view()[0] < before[0])
    at.one("#fit").click()
    assert at.view() == [0, 0, 120, 100]
    at.one("#close").click()
    at.wait_for_close()


@pytest.mark.slow
def test_the_nucleus_under_the_pointer_is_named(visit, page):
    at = visit(page, "#image=held-a")
    at.hover("found", 0)
    at.wait_for_nucleus("Prediction", "nucleus 1", "matched", "IoU 1.000")
    at.hover("truth", 1)
    at.wait_for_nucleus("Truth", "nucleus 2", "missed", "IoU 0.000")
    at.hover("found", 2)
    at.wait_for_nucleus("Prediction", "nucleus 3", "invented")


@pytest.mark.slow
def test_the_keyboard_alone_will_do(visit, page):
    from selenium.webdriver.common.keys import Keys

    at = visit(page)
    at.ask("document.querySelector('.card a').focus()")
    at.type(Keys.ENTER)
    at.wait_for_image("held-a")
    at.type("n")
    at.wait_for_nucleus("Prediction", "nucleus 1")
    at.type("3", "p", "p")
    assert at.ask("document.body.dataset.layer") == "prediction"
    at.type("+", Keys.SHIFT + Keys.ARROW_RIGHT + Keys.NULL)
    assert at.view()[0] > 20
    at.type(Keys.ARROW_RIGHT)
    at.wait_for_image(HOSTILE)
    at.type(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    at.wait_for_image("test-b")
    at.type(Keys.ESCAPE)
    at.wait_for_close()
    wait_until(lambda: at.ask("document.activeElement.title") == "test-b")


@pytest.mark.slow
def test_a_link_opens_at_its_image_whatever_its_name(visit, page):
    from urllib.parse import quote

    at = visit(page, f"#image={quote(HOSTILE)}")
    at.wait_for_image(HOSTILE)
    assert at.ask("document.querySelectorAll('img').length") == 0
    at = visit(page, "#image=%E0%A4%A")
    assert not at.one("#viewer").is_displayed()


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280, 2560])
def test_nothing_is_cut_off(visit, page, width):
    at = visit(page, width=width)
    assert at.ask("document.documentElement.scrollWidth") <= width
    named = "e => e.ariaLabel || e.labels?.length || e.textContent.trim()"
    assert at.ask(f"[...document.querySelectorAll('button, select, a, input')].every({named})")
    at.open(0)
    stage, window = (at.ask(f"document.getElementById('{name}').clientWidth") for name in ("stage", "viewer"))
    assert stage <= window <= width


@pytest.mark.slow
@pytest.mark.parametrize("with_data", [True, False])
def test_the_wall_or_why_there_is_none(visit, run, competition, tmp_path, with_data):
    at = visit(write_report(shutil.copytree(run, tmp_path / "run"), competition if with_data else None))
    assert at.one("#wall").is_displayed() == with_data
    assert at.one("#gallery > .note").is_displayed() != with_data


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [0, 20])
def test_nothing_moves_while_the_page_loads(visit, page, tmp_path, megabytes):
    """A large page is painted before its script has come: what the script fills in then must not push anything."""
    data = '<script type="application/json"'
    large = tmp_path / "large.html"
    large.write_text(page.read_text().replace(data, f"<!--{' ' * megabytes * 10**6}-->{data}"))
    at = visit(large)
    script = """
        const done = arguments[0];
        let moved = 0;
        new PerformanceObserver(list => list.getEntries().forEach(entry => { moved += entry.value; }))
            .observe({type: "layout-shift", buffered: true});
        setTimeout(() => done(moved), 200);
    """
    assert at.browser.execute_async_script(script) == 0


@pytest.mark.slow
def test_a_comparison_begins_where_they_differ_most(visit, comparison):
    at = visit(comparison)
    assert at.ask("document.getElementById('sort').value") == "differ most"
    images = {image["id"]: image for image in json.loads(Reader(comparison.read_text()).data)["images"]}
    assert images["test-a"]["agreement"] == pytest.approx(average_precision(OTHER, FOUND))
    first = [link.get_attribute("title") for link in at.all(".card a")][:2]
    assert first == ["test-a", "test-b"]  # where no truth is known, by how little they agree
    at.open(2)
    at.type("5")
    assert at.ask("document.querySelector('#stage g.other').getBoundingClientRect().width") > 0
