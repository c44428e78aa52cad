"""Scoring: the solution file, and what a submission is worth against it."""

import numpy as np
import pytest
from drawn_files import draw_files, write_folder

from nuclei.prediction.metric import IOU_THRESHOLDS
from nuclei.settings.config import BadInput
from nuclei_kit.experiments.scoring import (
    check_file,
    find_solution,
    image_shapes,
    mean_interval,
    read_solution,
    score_submission,
    threshold_table,
)

SOLUTION = (
    "ImageId,EncodedPixels,Height,Width,Usage\na,1 2,4,5,Public\nc,1 1,2,2,Ignored\na,5 4,4,5,Public\nb,,3,2,Private\n"
)


@pytest.fixture
def write(tmp_path):
    """Write a file of this test -> path."""

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


@pytest.mark.parametrize("ending", ["", ".zip"])
@pytest.mark.parametrize("stage, name", [(1, "stage1_solution.csv"), (2, "stage2_solution_final.csv")])
def test_the_solution_among_the_competitions_files_is_found(write, tmp_path, stage, name, ending):
    assert find_solution(tmp_path, stage) is None
    path = write(SOLUTION, name + ending)
    assert find_solution(tmp_path, stage) == path
    assert find_solution(tmp_path, 3 - stage) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (SOLUTION.replace("Height", "High"), "no column Height"),
        (SOLUTION.replace("1 2,4,5", "1 2,four,5"), "four"),
        (SOLUTION.replace("b,,3,2,Private", "b,,3"), "cannot be a solution"),
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
    # a: one found whole, one by 3 of its 4 pixels (IoU 0.75); b: a false negative and a false positive
    path = write("ImageId,EncodedPixels\na,1 4\na,9 3\nb,9 2\n", "submission.csv")
    first = np.where(IOU_THRESHOLDS < 0.75, 1, 1 / 3)  # tp / (tp + fp + fn): 2 of 2, then 1 / (1 + 1 + 1)
    np.testing.assert_allclose(score_submission(path, solution), first / 2)


def test_what_the_solution_ignores_needs_a_row_and_counts_for_nothing(write):
    solution = write(SOLUTION)
    rows = "ImageId,EncodedPixels\na,1 2\na,5 4\nb,\n"
    score = score_submission(write(rows + "c,1 1\n", "submission.csv"), solution)
    np.testing.assert_array_equal(score, score_submission(write(rows + "c,\n", "submission.csv"), solution))
    with pytest.raises(BadInput, match="no row, c first"):
        score_submission(write(rows, "submission.csv"), solution)


def test_a_solution_that_counts_nothing_scores_nothing(write):
    solution = write(SOLUTION.replace("Public", "Ignored").replace("Private", "Ignored"))
    with pytest.raises(BadInput, match=r"solution\.csv holds no image that counts"):
        score_submission(write("ImageId,EncodedPixels\na,1 4\n", "submission.csv"), solution)


# ---- checks ------------------------------------------------------------------------------------


def test_a_submission_is_counted(write):
    path = write("ImageId,EncodedPixels\na,1 4\na,9 3\nb,\nc,\n", "submission.csv")
    assert check_file(path) == check_file(path, {"a": (4, 4), "b": (4, 4), "c": None}) == (2, 3, 2)
    with pytest.raises(BadInput, match="1 images have no row, d first"):
        check_file(path, dict.fromkeys("abcd"))
    with pytest.raises(BadInput, match=r"row 3 .*past the last pixel"):
        check_file(path, dict.fromkeys("abc", (2, 5)))


def test_the_shapes_of_test_images(tmp_path):
    files, truth = draw_files(masks=False)
    write_folder(tmp_path / "stage1_test", files | {"broken/images/broken.png": b"\x89PNG no more"})
    expected = {image_id: labels.shape for image_id, (_, labels) in truth.items()}
    assert image_shapes(tmp_path, 1) == expected | {"broken": None}


# ---- tables ------------------------------------------------------------------------------------


def test_the_table_has_a_precision_below_each_threshold():
    precision = np.linspace(0.9, 0, 10)
    head, body = threshold_table(precision).splitlines()
    columns = [slice(start, start + 6) for start in range(9, 69, 6)]
    assert [float(head[column]) for column in columns] == IOU_THRESHOLDS.tolist()
    np.testing.assert_allclose([float(body[column]) for column in columns], precision, atol=5e-4)
    assert head.split()[-1] == "mean" and float(body.split()[-1]) == 0.45


def test_an_interval_holds_the_mean_and_shrinks_with_the_images():
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 2000):
        differences = rng.normal(0.1, 1, count)
        low, high = mean_interval(differences)
        assert low < differences.mean() < high
        widths.append(high - low)
    assert 5 < widths[0] / widths[1] < 20  # by the root of 100
    assert mean_interval([0.25]) == (0.25, 0.25)
