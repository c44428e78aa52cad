"""Cases: what a run left rows for, beside the images and the truth; rows that do not fit are refused."""

import numpy as np
import pytest
from drawn import draw_discs
from drawn_files import encode, mask_of, write_folder

from nuclei.competition.submission import make_rows, write_submission
from nuclei.prediction.metric import average_precision
from nuclei.settings.config import BadInput
from nuclei_kit.report.cases import HELD_OUT_PART, TEST_PART, gather_cases

TRUTH = draw_discs((60, 80), (20, 20, 12), (20, 60, 10), (45, 40, 8))
FOUND = np.where(TRUTH == 3, 0, TRUTH).astype(np.int32)  # the third is missed


@pytest.fixture
def run_and_data(tmp_path):
    """A run's folder with rows for one of two training images and for the only test image, and their competition."""
    image = encode(np.where(TRUTH > 0, 200, 20).astype(np.uint8))
    files = {f"stage1_train/{name}/images/{name}.png": image for name in ("left out", "learned from")}
    for name in ("left out", "learned from"):
        files |= {f"stage1_train/{name}/masks/{label}.png": mask_of(TRUTH, label) for label in (1, 2, 3)}
    data = write_folder(tmp_path / "data", files | {"stage1_test/test/images/test.png": image})
    run = tmp_path / "run"
    run.mkdir()
    write_submission(run / "held_out_nuclei.csv", make_rows("left out", FOUND))
    write_submission(run / "submission.csv", make_rows("test", FOUND))
    (run / "confidence.csv").write_text("ImageId,nucleus,confidence\ntest,1,0.5\ntest,2,0.75\n")
    return run, data


def test_every_image_with_rows_is_a_case_beside_its_truth(run_and_data):
    held_out, test = gather_cases(*run_and_data)
    assert (held_out.image_id, held_out.part) == ("left out", HELD_OUT_PART)
    assert (test.image_id, test.part) == ("test", TEST_PART)
    for case in (held_out, test):
        assert np.array_equal(case.found, FOUND) and case.image.shape == (60, 80, 3)
    assert np.array_equal(held_out.truth, TRUTH) and held_out.confidences is None
    assert held_out.score == pytest.approx(average_precision(TRUTH, FOUND)) == pytest.approx(2 / 3)
    assert test.truth is None and test.score is None and test.confidences == [0.5, 0.75]


def test_a_solution_gives_the_test_images_their_truth(run_and_data, tmp_path):
    solution = tmp_path / "solution.csv"
    rows = "".join(f"test,{runs},60,80,Public\n" for _, runs in make_rows("test", TRUTH))
    solution.write_text("ImageId,EncodedPixels,Height,Width,Usage\n" + rows)
    case = gather_cases(*run_and_data, solution=solution)[1]
    assert np.array_equal(case.truth, TRUTH) and case.score == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("held_out_nuclei.csv", [("another", "1 5")], ["held_out_nuclei.csv", "another"]),
        ("submission.csv", [("another", "1 5")], ["submission.csv", "another"]),
        ("submission.csv", [("test", "1 5")], ["confidence.csv", "test"]),
    ],
)
def test_rows_that_do_not_fit_are_refused(run_and_data, name, rows, words):
    run, data = run_and_data
    write_submission(run / name, rows)
    with pytest.raises(BadInput) as error:
        gather_cases(run, data)
    for word in words:
        assert word in str(error.value)
