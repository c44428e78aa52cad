"""Report: a finished run as one page that opens from disk: its score, training, cost and settings, and every image."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from scipy import ndimage as ndi

from nuclei.prediction.metric import IOU_THRESHOLDS, average_precision
from nuclei.settings.config import BadInput
from nuclei.settings.files import CONFIG_FILE, LOG_FILE, STAGES_FILE, SUBMISSION_FILE, write_whole
from nuclei.training_data.kinds import KINDS
from nuclei_kit.experiments.scoring import mean_interval
from nuclei_kit.files.folders import HELD_OUT_FILE, REPORT_FILE
from nuclei_kit.files.run_tables import read_number, read_scores, read_training_log
from nuclei_kit.files.saved_settings import SETTINGS_PARTS, examine_settings, not_settings
from nuclei_kit.files.tables import read_table
from nuclei_kit.report.cases import HELD_OUT_PART, TEST_PART, Case, gather_cases
from nuclei_kit.report.charts import line_chart
from nuclei_kit.report.outcomes import FN, FP, MERGE, SPLIT, TP, Outcomes, find_outcomes
from nuclei_kit.report.webp import encode_images

PAGE_FOLDER = Path(__file__).with_name("page")  # page.html, page.css and page.js
PICTURES_ROOM = 16_000_000  # characters for all pictures; outlines take about 120 for each nucleus
OUTLINE_ERROR = 0.5  # px by which an outline may stray from the nucleus's edge
# What the page calls the outcomes: its readers need not know the field's words.
OUTCOME_WORDS = {TP: "matched", FN: "missed", FP: "invented", MERGE: "merged", SPLIT: "split"}


def write_report(
    run: Path, data: Path | None = None, stage: int = 1, solution: Path | None = None, against: Path | None = None
) -> Path:
    """Write `run`/report.html, a page that needs nothing beside it -> its path.

    Args:
        run: a finished run's folder.
        data: the competition's folder; without it the page has no images.
        stage: 1 or 2, whose test images the run's submission is for.
        solution: CSV with the test images' true nuclei.
        against: another run's folder, on the same data, to compare with.

    Raises:
        BadInput: `run` or `against` is not a run's folder, the data are not those of the run, or the two runs share no
            image.
    """
    if data is None and (solution or against):
        raise BadInput("a report with --solution or --against needs the images: name the competition with --data DIR")
    for folder in (run, *([against] if against else [])):
        if not any((folder / name).is_file() for name in (CONFIG_FILE, SUBMISSION_FILE)):
            lacks = f"holds no {CONFIG_FILE} and no {SUBMISSION_FILE}" if folder.exists() else "is missing"
            raise BadInput(f"{folder} {lacks}: name the folder of a run, as nuclei run leaves it")
    cases = gather_cases(run, data, stage, solution) if data else []
    others = {case.image_id: case for case in gather_cases(against, data, stage, solution)} if data and against else {}
    if against and not any(case.image_id in others for case in cases):
        raise BadInput(f"{run} and {against} share no image: compare runs on the same data")
    write_whole(run / REPORT_FILE, fill_page(run, cases, others, against))
    return run / REPORT_FILE


# ---- one image, for the gallery ----------------------------------------------------------------


def describe_case(case: Case, source: str, other: Case | None = None) -> dict[str, Any]:
    """Describe an image, whose picture is at the address `source`, for the page's script -> dict for JSON.

    A nucleus is [outcome, IoU, path]: one of OUTCOMES, or "" where there is no truth; its best IoU, or None; its
    outline as an SVG path, in px of the image.
    """
    height, width = case.found.shape
    entry: dict[str, Any] = {
        "id": case.image_id,
        "part": case.part,
        "kind": case.kind,
        "width": width,
        "height": height,
    }
    entry |= {"source": source, "score": case.score, "truth": None, "confidences": case.confidences}
    found = outlines(case.found)
    if case.truth is None:
        entry["found"] = [["", None, path] for path in found]
    else:
        of_true, of_found = find_outcomes(case.truth, case.found)
        entry["truth"] = _nuclei(of_true, outlines(case.truth))
        entry["found"] = _nuclei(of_found, found)
    if other is not None:
        entry["other"] = [["", None, path] for path in outlines(other.found)]
        entry["difference"] = _difference(case, other)
        entry["agreement"] = average_precision(other.found, case.found)
    return entry


def _difference(case: Case, other: Case) -> float | None:
    """Tell how much higher an image's score is than in another run."""
    return None if case.score is None or other.score is None else case.score - other.score


def _nuclei(outcomes: Outcomes, paths: Sequence[str]) -> list[list]:
    rows = zip(outcomes.names, outcomes.ious, paths, strict=True)
    return [[name, round(iou, 3), path] for name, iou, path in rows]


def outlines(labels: np.ndarray) -> list[str]:
    """Draw the SVG path around each nucleus, by ascending label, through the middles of its outermost pixels."""
    paths = []
    for label, box in enumerate(ndi.find_objects(labels), start=1):
        if box is not None:
            mask = (labels[box] == label).astype(np.uint8)
            offset = (box[1].start, box[0].start)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=offset)
            paths.append("".join(_path(cv2.approxPolyDP(contour, OUTLINE_ERROR, True)[:, 0]) for contour in contours))
    return paths


def _path(corners):
    """Write int (n, 2) as "M12.5 3.5l4 0 0 2z"."""
    (x, y), steps = corners[0] + 0.5, np.diff(corners, axis=0, append=corners[:1])
    return f"M{x:g} {y:g}l{' '.join(map(str, steps.ravel().tolist()))}z"


# ---- the page ----------------------------------------------------------------------------------


def fill_page(run: Path, cases: Sequence[Case], others: Mapping[str, Case], against: Path | None) -> str:
    """Fill the template -> the page. What comes from outside is escaped; the policy runs the page's script alone."""
    sources = encode_images([case.image for case in cases], PICTURES_ROOM)
    entries = [
        describe_case(case, source, others.get(case.image_id)) for case, source in zip(cases, sources, strict=True)
    ]
    style, script = ((PAGE_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sections = [*_score_sections(run, cases), *_against_section(cases, others, against), *_training_section(run)]
    sections += [*_cost_section(run), *_settings_section(run)]
    name = run.resolve().name
    values = {
        "policy": policy,
        "style": style,
        "script": script,
        "title": escape(f"{name}: nuclei report"),
        "name": escape(name),
        "written": f"{datetime.now():%d %B %Y, %H:%M}",
        "headline": _headline(run, cases),
        "links": "".join(f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title, _ in sections),
        "sections": "\n".join(section for _, section in sections),
        "data": json.dumps({"images": entries, "outcomes": OUTCOME_WORDS}, separators=(",", ":")).replace(
            "<", "\\u003c"
        ),
        "hidden": "hidden" if cases else "",  # what says that there are no images
    }
    return Template((PAGE_FOLDER / "page.html").read_text(encoding="utf-8")).substitute(values)


def _headline(run, cases):
    """Lay out the figures that one wants first."""
    figures = []
    for part in (HELD_OUT_PART, TEST_PART):
        scores = [case.score for case in cases if case.part == part and case.score is not None]
        if part == HELD_OUT_PART and not scores and (run / HELD_OUT_FILE).is_file():
            scores = [score for _, score in read_scores(run).values()]
        if scores:
            figures.append((f"{np.mean(scores):.3f}", f"score on {len(scores)} {part} images"))
    found = [case.found.max(initial=0) for case in cases if case.part == TEST_PART]
    if found:
        figures.append((f"{sum(found):,}", f"nuclei found in {len(found)} test images"))
    if (run / STAGES_FILE).is_file():
        seconds = sum(row["seconds"] for row in _read_stages(run))
        figures.append((f"{seconds / 60:.1f} min", "for all stages"))
    return "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(figure)}</dd></div>" for figure, what in figures)


def _score_sections(run, cases):
    sections = []
    for part in (HELD_OUT_PART, TEST_PART):
        scored = [case for case in cases if case.part == part and case.precision is not None]
        if scored:
            sections.append(_section(f"Score on the {part} images", _precision_table(scored), "wide"))
    if not any(case.part == HELD_OUT_PART for case in cases) and (run / HELD_OUT_FILE).is_file():
        scores = read_scores(run).values()
        rows = [
            (kind, len(here), f"{np.mean(here):.3f}")
            for kind in (*KINDS, "all")
            if (here := [score for of, score in scores if kind in (of, "all")])
        ]
        sections.append(_section(f"Score on the {HELD_OUT_PART} images", _table(("kind", "images", "score"), rows)))
    return sections


def _precision_table(scored):
    """Lay out, by kind, the score and the precision at each threshold; and how many nuclei had which outcome."""
    head = ("kind", "images", "score", *(f"{threshold:.2f}" for threshold in IOU_THRESHOLDS))
    rows = []
    for kind in (*KINDS, "all"):
        here = [case.precision for case in scored if kind in (case.kind, "all")]
        if here:
            each = np.mean(here, axis=0)
            rows.append((kind, len(here), f"{each.mean():.3f}", *(f"{value:.2f}" for value in each)))
    note = '<p class="note">0.50 to 0.95: the precision at an IoU above that. Score: the mean of these ten.</p>'
    return f'<div class="tables"><div>{_table(head, rows)}{note}</div>{_outcome_table(scored)}</div>'


def _outcome_table(scored):
    """Count how many true and how many predicted nuclei had which outcome."""
    sides: dict[str, Counter[str]] = {"true": Counter(), "predicted": Counter()}
    for case in scored:
        for counts, outcomes in zip(sides.values(), find_outcomes(case.truth, case.found), strict=True):
            counts.update(outcomes.names)
    rows = [
        (side, f"{counts.total():,}", *(f"{counts[outcome]:,}" for outcome in OUTCOME_WORDS))
        for side, counts in sides.items()
    ]
    return _table(("nuclei", "all", *OUTCOME_WORDS.values()), rows)


def _against_section(cases, others, against):
    if not others:
        return []
    pairs = [(case, others[case.image_id]) for case in cases if case.image_id in others]
    rows = []
    for kind in (*KINDS, "all"):
        differences = [_difference(*pair) for pair in pairs if kind in (pair[0].kind, "all")]
        here = [one for one in differences if one is not None]
        if here:
            low, high = mean_interval(here)
            spread = f"{np.std(here, ddof=1):.3f}" if len(here) > 1 else "-"
            interval = f"{low:+.3f} … {high:+.3f}" if len(here) > 1 else "-"
            better, worse = sum(one > 0 for one in here), sum(one < 0 for one in here)
            rows.append((kind, len(here), f"{np.mean(here):+.3f}", spread, interval, better, worse))
    name = f"Against {against.resolve().name}"
    if not rows:
        return [_section(name, "<p>No truth is known: the gallery has the images that differ most first.</p>")]
    head = ("kind", "images", "difference", "spread", "95 % of the mean", "better", "worse")
    note = "<p class=\"note\">Difference: this run's score less the other's, image by image. Spread: its standard "
    note += "deviation over the images. How much a second training would differ is not in it.</p>"
    return [_section(name, _table(head, rows) + note, "wide")]


def _training_section(run):
    if not (run / LOG_FILE).is_file():
        return []
    rows = read_training_log(run / LOG_FILE)
    charts = []
    for column, name, dots in (("loss", "loss", False), ("tuning_score", "score on the tuning images", True)):
        points = [(row["seconds"] / 60, row[column]) for row in rows if column in row]
        if points:
            said = f"{name}: {points[0][1]:.3f} at first, {points[-1][1]:.3f} at the end"
            charts.append(f"<figure>{line_chart(points, said, 'minutes', name, dots)}</figure>")
    return [_section("Training", f'<div class="charts">{"".join(charts)}</div>')] if charts else []


def _read_stages(run):
    """Read stages.csv -> [{stage: str, seconds, images, peak_gb: float}, ...]."""
    path, numbers = run / STAGES_FILE, ("seconds", "images", "peak_gb")
    table = read_table(path, ("stage", *numbers))
    return [{"stage": row["stage"], **{name: read_number(path, row, name) for name in numbers}} for row in table]


def _cost_section(run):
    if not (run / STAGES_FILE).is_file():
        return []
    stages = _read_stages(run)
    total = sum(row["seconds"] for row in stages) or 1.0
    rows = []
    for row in stages:
        seconds, images = row["seconds"], int(row["images"])
        rate = f"{images / max(seconds, 1e-9):.1f}" if images else "-"
        share = f"{seconds / total:.0%}"
        counts = (f"{images:,}" if images else "-", rate, f"{row['peak_gb']:.2f}")
        rows.append((row["stage"], f"{seconds:,.1f}", share, *counts))
    head = ("stage", "seconds", "share", "images", "images/s", "peak memory, GB")
    note = '<p class="note">Peak memory: the most that the run had held by then.</p>'
    return [_section("Time and memory", _table(head, rows) + note)]


def _settings_section(run):
    if not (run / CONFIG_FILE).is_file():
        return []
    content = examine_settings(run / CONFIG_FILE)
    try:
        origin = {"thresholds": f" {content.get('thresholds_from', '')}"}
        parts = [
            f"<details><summary>{escape(name + origin.get(name, ''))}</summary>{_settings_table(name, content[name])}"
            "</details>"
            for name in SETTINGS_PARTS
            if name in content
        ]
    except AttributeError as error:
        raise not_settings(run / CONFIG_FILE, error) from None
    return [_section("Settings and versions", f'<div class="settings">{"".join(parts)}</div>')]


def _settings_table(name, values):
    """Make a part of a settings file an HTML table; thresholds, which go by look, have a row a look."""
    if name != "thresholds":
        return _table((name, "value"), values.items())
    rows = [(look, *one.values()) for look, one in values.items()]
    return _table((name, *dict.fromkeys(field for one in values.values() for field in one)), rows)


def _section(title, content, style=""):
    """Make a section of the page -> (its title, its HTML)."""
    return title, f'<section id="{_anchor(title)}" class="{style}"><h2>{escape(title)}</h2>{content}</section>'


def _anchor(title):
    """Name a title as it is called in an address."""
    return re.sub("[^a-z0-9]+", "-", title.lower())


def _table(head, rows):
    """Make an HTML table; its first column names the rows. It scrolls by itself where the window is narrow."""
    titles = "".join(f'<th scope="col">{escape(str(title))}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{escape(str(row[0]))}</th>{"".join(f"<td>{escape(str(x))}</td>" for x in row[1:])}</tr>'
        for row in rows
    )
    frame = f'<div class="scroll" tabindex="0" role="region" aria-label="table by {escape(str(head[0]))}">'
    return f"{frame}<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
