"""Gallery: the worst images of a drawn run, the lowest score first."""

import cv2
import numpy as np
import pytest

from nuclei.competition.submission import make_rows, write_submission
from nuclei.settings.config import BadInput
from nuclei_kit.report.gallery import draw_worst
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
