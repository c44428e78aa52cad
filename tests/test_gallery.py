"""Gallery: the typical image of each kind, and the worst images of a drawn run, the lowest score first."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawn import draw_field
from drawn_files import encode, mask_of, write_folder
from stand_ins import PixelNetwork, make_segmenter, paint

from nuclei.competition.submission import make_rows, write_submission
from nuclei.settings.config import BadInput
from nuclei_kit.experiments.folds import split_data
from nuclei_kit.files.reading import read_images
from nuclei_kit.report import gallery
from nuclei_kit.report.gallery import draw_gallery, draw_worst
from nuclei_kit.report.pictures import comparison_strip, contact_sheet, write_picture, write_png

TRUTH = np.zeros((256, 256), np.int32)
TRUTH[40:100, 40:100] = 1
TRUTH[150:220, 120:200] = 2


@pytest.fixture
def competition(tmp_path):
    for image_id, light in (("good", 200), ("bad", 150)):
        home = tmp_path / "data" / "stage1_train" / image_id
        image = np.repeat(np.where(TRUTH > 0, light, 20).astype(np.uint8)[..., None], 3, axis=2)
        write_png(home / "images" / "image.png", image)
        for label in (1, 2):
            write_png(home / "masks" / f"{label}.png", np.where(label == TRUTH, 255, 0).astype(np.uint8))
    return tmp_path / "data"


@pytest.mark.parametrize(
    "folds, fold, shown, trained_on", [(2, None, 1, 0), (2, 0, 0, 1), (2, 1, 1, 0), (0, None, 0, 1), (0, 1, 1, 1)]
)
def test_the_gallery_has_the_typical_image_of_each_kind(tmp_path, monkeypatch, caplog, folds, fold, shown, trained_on):
    """Of a run that held fold 1 out, and of one that was trained on everything."""
    segmenter = make_segmenter(PixelNetwork())
    segmenter = replace(segmenter, config=replace(segmenter.config, data_folds=folds, data_fold=1 if folds else 0))
    monkeypatch.setattr(gallery, "FOLDS", 2)
    monkeypatch.setattr(gallery, "load_run", lambda run: segmenter)
    files = {}
    for number in range(1, 8):
        labels = draw_field(np.random.default_rng(number), (120, 120), 9, number)
        files[f"{number}/images/{number}.png"] = encode(paint(labels))
        files |= {f"{number}/masks/{one}.png": mask_of(labels, one) for one in range(1, labels.max() + 1)}
    everything = read_images(write_folder(tmp_path / "data" / "stage1_train", files))
    *_, held_out = split_data(everything, 2, shown, segmenter.config.data_tuning)
    (kind,) = set(held_out.kinds)
    order = sorted(range(len(held_out.ids)), key=lambda i: held_out.labels[i].max())
    typical = order[len(order) // 2]
    image, truth = held_out.images[typical], held_out.labels[typical]
    expected = contact_sheet([comparison_strip(image, truth, truth, kind)])
    np.testing.assert_array_equal(draw_gallery(None, tmp_path / "data", fold), expected)
    assert (f"trained on the images of fold {shown}" in caplog.text) == trained_on


def test_the_worst_come_first_and_no_more_than_asked_for(competition, tmp_path):
    half = np.where(TRUTH == 1, TRUTH, 0)
    rows = make_rows("good", TRUTH) + make_rows("bad", half)
    write_submission(tmp_path / "run" / "held_out_nuclei.csv", rows)
    image = np.repeat(np.where(TRUTH > 0, 150, 20).astype(np.uint8)[..., None], 3, axis=2)
    first = comparison_strip(image, TRUTH, half, "1. fluorescence-large bad")
    np.testing.assert_array_equal(draw_worst(tmp_path / "run", competition, 1), contact_sheet([first]))
    both = draw_worst(tmp_path / "run", competition, 5)
    assert len(both) > len(contact_sheet([first]))


def test_a_run_that_held_none_out_is_refused(competition, tmp_path):
    with pytest.raises(BadInput, match=r"held_out_nuclei\.csv is missing"):
        draw_worst(tmp_path, competition, 1)


@pytest.mark.parametrize(("name", "head"), [("a.webp", b"RIFF"), ("a.png", b"\x89PNG")])
def test_a_picture_is_written_as_its_name_says(tmp_path, name, head):
    drawn = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    write_picture(tmp_path / name, drawn)
    assert (tmp_path / name).read_bytes().startswith(head)
    read = cv2.imread(str(tmp_path / name))[..., ::-1]
    np.testing.assert_allclose(read.astype(int), drawn, atol=6)  # WebP loses a little
