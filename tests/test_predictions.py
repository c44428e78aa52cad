"""Predictions: rows that get better image by image, inside the time, whatever fails on the way."""

import csv

import numpy as np
import pytest

from nuclei.run import predictions as module
from nuclei.run.predictions import Predictions
from nuclei.training_data.images import ImageSet
from nuclei_kit.files.run_lists import check_submission, decode_rles

EMPTY = {"00": 0, "01": 0, "02": 0, "zz": 0}
AREAS = {"00": 16**2, "01": 18**2, "02": 20**2, "zz": 0}


def bright_set(count=3):
    """Images of one bright square each, the larger the later, and a file that cannot be read."""
    images = [np.zeros((64, 64, 3), np.uint8) for _ in range(count)]
    for n, image in enumerate(images):
        image[8 : 24 + 2 * n, 8 : 24 + 2 * n] = 200
    return ImageSet([f"{n:02d}" for n in range(count)], images, [], [], {"zz": "not an image"})


class Finder:
    """Stands in for a Segmenter: takes what is bright for one nucleus; `first` is called before each image."""

    def __init__(self, first=lambda image: None, blind=False):
        self.first, self.blind, self.seen = first, blind, []

    def look(self, image, views=None):
        self.first(image)
        self.seen.append(views)
        return image, 1.0

    def find(self, image, probs, zoom):
        assert probs is image and zoom == 1.0
        labels = (image[..., 0] > (255 if self.blind else 0)).astype(np.int32)
        return labels, np.full(labels.max(), 0.87549)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, by minutes: [now]."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: 60 * now[0])
    return now


def areas(predictions, folder):
    """{image id: the area of its nuclei} in the submission that `predictions` writes."""
    predictions.write(folder)
    rles = check_submission(folder / "submission.csv", dict.fromkeys(predictions.found))
    return {i: np.count_nonzero(decode_rles([rle for rle in found if rle], 64, 64)) for i, found in rles.items()}


def confidences(folder):
    """[(image id, number, confidence)] of confidence.csv."""
    with open(folder / "confidence.csv", newline="") as file:
        return [(row["ImageId"], int(row["nucleus"]), float(row["confidence"])) for row in csv.DictReader(file)]


def test_before_any_network_every_image_has_its_empty_row(tmp_path):
    assert areas(Predictions(bright_set()), tmp_path) == EMPTY
    assert confidences(tmp_path) == []


def test_every_nucleus_has_its_row_and_its_confidence(tmp_path):
    predictions = Predictions(bright_set())
    assert predictions.improve(Finder()) == 3
    assert areas(predictions, tmp_path) == AREAS
    assert confidences(tmp_path) == [(i, 1, 0.875) for i in ("00", "01", "02")]


def test_the_views_reach_the_segmenter():
    finder = Finder()
    Predictions(bright_set(1)).improve(finder, views=1)
    Predictions(bright_set(1)).improve(finder)
    assert finder.seen == [1, None]


def test_what_the_time_does_not_reach_is_first_in_line(tmp_path, clock):
    def take_a_minute(image):
        clock[0] += 1

    predictions = Predictions(bright_set())
    assert predictions.improve(Finder(take_a_minute), minutes=1.5) == 2
    assert areas(predictions, tmp_path) == AREAS | {"02": 0}
    # The third is next, then the first again; a network that finds nothing shows which rows are new.
    assert predictions.improve(Finder(take_a_minute), minutes=0.5) == 1
    assert predictions.improve(Finder(take_a_minute, blind=True), minutes=0.5) == 1
    assert areas(predictions, tmp_path) == AREAS | {"00": 0}
    assert predictions.improve(Finder(), minutes=0) == 0


def test_an_image_that_cannot_be_predicted_keeps_its_earlier_rows(tmp_path, caplog):
    def refuse_the_second(image):
        if image.sum() == images.images[1].sum():
            raise ValueError("odd pixels")

    images, kept = bright_set(), []
    predictions = Predictions(images)
    assert predictions.improve(Finder(refuse_the_second), keep=kept.append) == 3
    assert areas(predictions, tmp_path) == AREAS | {"01": 0}
    assert kept == ["00", "02"]
    predictions.improve(Finder())
    predictions.improve(Finder(refuse_the_second, blind=True))
    assert areas(predictions, tmp_path) == EMPTY | {"01": AREAS["01"]}
    assert "01" in caplog.text and "odd pixels" in caplog.text


def test_where_no_image_can_be_predicted_the_reason_is_raised():
    def refuse(image):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        Predictions(bright_set()).improve(Finder(refuse))


def test_what_was_found_earlier_is_not_predicted_again(tmp_path):
    first, second, finder = Predictions(bright_set()), Predictions(bright_set()), Finder()
    first.improve(Finder())
    second.take({i: first.found[i] for i in ("00", "02")})
    assert areas(second, tmp_path) == AREAS | {"01": 0}
    assert second.improve(finder) == len(finder.seen) == 1
    assert areas(second, tmp_path) == AREAS
