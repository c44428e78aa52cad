"""Pictures: outlines lie inside their nuclei, neighbours differ in colour, and every difference has its own."""

import cv2
import numpy as np
import pytest
from drawn import draw_discs

from nuclei_kit.report.pictures import (
    CAPTION,
    FN_COLOUR,
    FP_COLOUR,
    OUTLINES,
    PANEL,
    TP_COLOUR,
    TP_EDGE_COLOUR,
    brighten,
    comparison_strip,
    contact_sheet,
    crop_middle,
    differences,
    inner_edge,
    overlay,
    write_png,
)


def colours_of(picture, where):
    return {tuple(int(v) for v in colour) for colour in picture[where]}


def test_a_light_image_stays_as_it_is():
    image = np.full((20, 30, 3), (240, 220, 230), np.uint8)
    image[5:10, 5:10] = (90, 20, 110)
    np.testing.assert_array_equal(brighten(image), image)


def test_a_dim_image_becomes_visible_and_keeps_its_order():
    image = np.full((64, 64, 3), 5, np.uint8)
    image[16:32, 16:32], image[40:56, 40:56] = 25, 45
    shown = brighten(image)
    assert shown[0, 0, 0] == 0
    assert shown[45, 45, 0] == 255
    assert shown[20, 20, 0] == 128


def test_noise_stays_dim():
    noise = np.random.default_rng(0).integers(3, 7, (64, 64, 3), dtype=np.uint8)
    assert brighten(noise).max() <= 36


@pytest.mark.parametrize("background", [10, 230])
def test_an_overlay_changes_the_inner_edges_alone(background):
    labels = draw_discs((60, 60), (15, 15, 10), (40, 40, 12))
    image = np.full((60, 60, 3), background, np.uint8)
    kept = image.copy()
    drawn = overlay(image, labels)
    edge = inner_edge(labels)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(drawn[~edge], brighten(image)[~edge])
    assert colours_of(drawn, edge) == {OUTLINES[0]}  # they do not touch
    eroded = cv2.erode((labels > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    np.testing.assert_array_equal(edge, (labels > 0) & (eroded == 0))


def test_touching_nuclei_differ_in_colour():
    labels = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((6, 6), np.int32)).astype(np.int32)
    drawn = overlay(np.zeros((30, 30, 3), np.uint8), labels)
    colour = [next(iter(colours_of(drawn, (labels == i) & inner_edge(labels)))) for i in range(1, 26)]
    grid = np.array([OUTLINES.index(c) for c in colour]).reshape(5, 5)
    assert (grid[1:] != grid[:-1]).all()
    assert (grid[:, 1:] != grid[:, :-1]).all()


def test_the_frame_is_no_edge():
    assert not inner_edge(np.ones((5, 7), np.int32)).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 3)])
def test_tiny_and_empty_images_have_pictures(shape):
    image, labels = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.int32)
    np.testing.assert_array_equal(overlay(image, labels), image)
    assert comparison_strip(image, labels, labels).shape[2] == 3


def test_every_difference_has_its_colour():
    truth = draw_discs((100, 100), (20, 20, 12), (70, 70, 10))
    truth[truth == 1] = 7  # labels may have gaps
    predicted = draw_discs((100, 100), (22, 20, 12), (20, 80, 9))
    picture = differences(truth, predicted)
    hit, guess = truth == 7, predicted == 1
    assert colours_of(picture, hit & guess) == {TP_COLOUR}
    assert colours_of(picture, hit ^ guess) == {TP_EDGE_COLOUR}
    assert colours_of(picture, truth == 2) == {FN_COLOUR}
    assert colours_of(picture, predicted == 2) == {FP_COLOUR}
    assert colours_of(picture, (truth == 0) & (predicted == 0)) == {(0, 0, 0)}


def test_two_nuclei_taken_for_one_show_inside_the_outline_of_the_one():
    truth = np.zeros((30, 50), np.int32)
    truth[5:25, 5:25], truth[5:25, 25:45] = 1, 2
    merged = (truth > 0).astype(np.int32)
    picture = differences(truth, merged)
    assert colours_of(picture, inner_edge(merged)) == {FP_COLOUR}
    assert colours_of(picture, (merged > 0) & ~inner_edge(merged)) == {FN_COLOUR}


def test_a_perfect_prediction_has_one_colour():
    truth = draw_discs((80, 80), (20, 20, 12), (40, 40, 12), (60, 20, 9))
    assert colours_of(differences(truth, truth), truth > 0) == {TP_COLOUR}


def test_small_images_are_enlarged_and_large_ones_are_not():
    for side, height in ((100, 200), (300, 300)):
        labels = draw_discs((side, side), (side // 2, side // 2, side // 4))
        strip = comparison_strip(np.zeros((side, side, 3), np.uint8), labels, labels)
        assert strip.dtype == np.uint8
        assert strip.shape[0] == height + CAPTION
        assert strip.shape[1] >= 4 * max(height, PANEL)


def test_a_contact_sheet_holds_its_strips():
    labels = draw_discs((64, 64), (30, 30, 10))
    strips = [comparison_strip(np.full((64, 64, 3), value, np.uint8), labels, labels) for value in (0, 255)]
    sheet = contact_sheet(strips)
    assert sheet.shape[0] > sum(strip.shape[0] for strip in strips)
    top = 8
    for strip in strips:
        np.testing.assert_array_equal(sheet[top : top + len(strip), 8 : 8 + strip.shape[1]], strip)
        top += len(strip) + 8


def test_the_middle_is_cropped():
    array = np.arange(100).reshape(10, 10)
    np.testing.assert_array_equal(crop_middle(array, 4), array[3:7, 3:7])
    np.testing.assert_array_equal(crop_middle(array, 40), array)


@pytest.mark.parametrize(
    "picture",
    [
        np.arange(60, dtype=np.uint8).reshape(4, 5, 3),
        np.array([[0, 65535], [300, 7]], np.uint16),
        np.array([[0, 255]], np.uint8),
    ],
)
def test_a_png_comes_back(tmp_path, picture):
    path = tmp_path / "new folder" / "a.png"
    write_png(path, picture)
    back = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(back[..., ::-1] if picture.ndim == 3 else back, picture)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_png_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(path, np.zeros((2, 2), np.uint8))
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("nuclei.settings.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_png(path, np.ones((9, 9), np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
