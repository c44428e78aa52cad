"""Scoring: the solution file, and what a submission is worth against it."""

import numpy as np
import pytest

from nuclei.prediction.metric import IOU_THRESHOLDS
from nuclei.settings.config import BadInput
from nuclei_kit.experiments.scoring import find_solution, read_solution, score_submission

SOLUTION = (
    "ImageId,EncodedPixels,Height,Width,Usage\na,1 2,4,5,Public\nc,1 1,2,2,Ignored\na,5 4,4,5,Public\nb,,3,2,Private\n"
)


@pytest.fixture
def write(tmp_path):
    """Writes a file of this test -> path."""

    def write(content, name="solution.csv"):
        path = tmp_path / name
        path.write_text(content, newline="")
        return path

    return write


def test_the_solution_without_what_kaggle_ignored(write):
    truth = read_solution(write(SOLUTION))
    assert list(truth) == ["a", "b"]
    expected = np.zeros((4, 5), np.int32)
    expected[:2, 0], expected[:, 1] = 1, 2
    np.testing.assert_array_equal(truth["a"], expected)
    assert truth["b"].shape == (3, 2)
    assert not truth["b"].any()


def test_a_solution_without_usage_counts_whole(write):
    path = write("ImageId,EncodedPixels,Height,Width\nc,1 1,2,2\n")
    assert read_solution(path)["c"].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("name", ["stage1_solution.csv", "stage1_solution.csv.zip"])
def test_the_solution_among_the_competitions_files_is_found(write, tmp_path, name):
    assert find_solution(tmp_path, 1) is None
    path = write(SOLUTION, name)
    assert find_solution(tmp_path, 1) == path
    assert find_solution(tmp_path, 2) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (SOLUTION.replace("Height", "High"), "no column Height"),
        (SOLUTION.replace("1 2,4,5", "1 2,four,5"), "four"),
        (SOLUTION.replace("b,,3,2,Private", "b,,3"), "no solution"),
        (SOLUTION.replace("1 2,4,5", "19 3,4,5"), "past the last pixel"),
    ],
)
def test_a_broken_solution_is_named(write, content, says):
    with pytest.raises(BadInput) as raised:
        read_solution(write(content, "solution.csv"))
    assert "solution.csv" in str(raised.value)
    assert says in str(raised.value)


def test_a_pixel_of_two_nuclei_goes_to_the_smaller(write):
    path = write("ImageId,EncodedPixels,Height,Width\nc,1 6,3,3\nc,6 2,3,3\n")  # both claim the sixth
    assert read_solution(path)["c"].T.ravel().tolist() == [1, 1, 1, 1, 1, 2, 2, 0, 0]


def test_a_submission_is_worth_what_it_finds(write):
    solution = write("ImageId,EncodedPixels,Height,Width\na,1 4,4,4\na,9 4,4,4\nb,1 2,4,4\n")
    # a: one found whole, one by 3 of its 4 pixels (IoU 0.75); b: missed, and one invented
    path = write("ImageId,EncodedPixels\na,1 4\na,9 3\nb,9 2\n", "submission.csv")
    first = np.where(IOU_THRESHOLDS < 0.75, 1, 1 / 3)  # tp / (tp + fp + fn): 2 of 2, then 1 / (1 + 1 + 1)
    np.testing.assert_allclose(score_submission(path, solution), first / 2)
