"""Blocks: what is found block by block is what is found at once, and no seam cuts, loses or doubles a nucleus."""

import numpy as np
import pytest
from drawn import draw_discs, draw_field
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import CutOff, PixelNetwork, make_segmenter, paint

from nuclei.competition.submission import encode_labels
from nuclei.prediction.inference import Tiling, predict_probs
from nuclei.prediction.metric import average_precision
from nuclei.prediction.watershed import Thresholds, find_instances
from nuclei.training_data.kinds import nucleus_diameter, standard_lut, standardise
from nuclei_kit.own_images import blocks
from nuclei_kit.own_images.blocks import gather_windows, segment_blocks, split, stitch, widen
from nuclei_kit.own_images.journal import Journal


def same_nuclei(one, other):
    """Whether two label images hold the same nuclei, in whatever order."""
    return sorted(encode_labels(one)) == sorted(encode_labels(other))


def segment(image, tmp_path, network=None, zoom=1.0):
    """`segment_blocks` at a zoom that is told."""
    journal = Journal(tmp_path / "x.journal")
    journal.once("zoom", lambda: zoom)
    return segment_blocks(image, make_segmenter(network or PixelNetwork()), journal, "x")[0]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 100 px at most with a halo of 40, so that an image of some hundred has many."""
    monkeypatch.setattr(blocks, "BLOCK", 100)
    monkeypatch.setattr(blocks, "HALO", 40)


def draw_crowd(seed, shape, count):
    """Discs at random places, many of them touching."""
    rng = np.random.default_rng(seed)
    return draw_discs(
        shape, *zip(*rng.uniform(0, np.array(shape)[:, None], (2, count)), rng.uniform(6, 17, count), strict=True)
    )


# ---- splitting ---------------------------------------------------------------------------------


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 9), st.integers(1, 9))
def test_blocks_cover_every_pixel_once(height, width, down, across):
    covered = np.zeros((height, width), int)
    for block in split((height, width), (min(down, height), min(across, width))):
        assert covered[block].size
        covered[block] += 1
    assert (covered == 1).all()


def test_a_block_is_widened_as_far_as_the_image_goes():
    assert widen((slice(0, 10), slice(30, 40)), 5, (50, 42)) == (slice(0, 15), slice(25, 42))


# ---- stitching ---------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(40, 300), st.integers(40, 300), st.integers(1, 5), st.integers(1, 5))
def test_what_every_block_sees_alike_is_stitched_to_the_whole(seed, height, width, down, across):
    labels = draw_crowd(seed, (height, width), 30)
    places = split(labels.shape, (down, across))
    found = [encode_labels(labels[widen(place, 40, labels.shape)]) for place in places]
    stitched, _ = stitch(labels.shape, places, 40, 4, found)
    assert stitched.dtype == np.int32
    assert same_nuclei(stitched, labels)
    assert stitched.max() == np.unique(labels[labels > 0]).size


@pytest.mark.parametrize("row", range(90, 111, 2))
@pytest.mark.parametrize("drift", [-3, 3])
def test_a_nucleus_that_two_blocks_see_a_little_apart_is_one(row, drift):
    """Its centre may lie in neither of the blocks by their own views, or in both."""
    shape, places = (200, 80), split((200, 80), (2, 1))
    views = [draw_discs(shape, (row, 40, 15)), draw_discs(shape, (row + drift, 40, 15))]
    found = [encode_labels(view[widen(place, 40, shape)]) for view, place in zip(views, places, strict=True)]
    stitched, _ = stitch(shape, places, 40, 4, found)
    assert stitched.max() == 1
    assert any(np.array_equal(stitched > 0, view > 0) for view in views)


def test_a_nucleus_wider_than_any_halo_is_one():
    labels = np.zeros((400, 400), np.int32)
    labels[20:380, 150:190] = 1
    labels[30:60, 20:50] = 2
    places = split(labels.shape, (4, 4))
    found = [encode_labels(labels[widen(place, 20, labels.shape)]) for place in places]
    assert same_nuclei(stitch(labels.shape, places, 20, 4, found)[0], labels)


def test_what_is_left_of_a_nucleus_stays_in_one_piece():
    """Another block's nucleus lies across it: the larger of the two parts that are free is taken."""
    first, second = np.zeros((2, 40, 100), np.int32)
    first[10:30, 46:52] = 1
    second[18:22, 40:70] = 1
    places = split(first.shape, (1, 2))
    stitched, _ = stitch(first.shape, places, 50, 4, [encode_labels(first), encode_labels(second)])
    assert np.array_equal(stitched, np.where(first, 1, np.where(np.indices(first.shape)[1] > 51, 2 * second, 0)))


# ---- segmenting --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(512, 300), (250, 401), (90, 520)])
def test_blocks_find_what_the_whole_shows(small_blocks, tmp_path, shape):
    apart = draw_field(np.random.default_rng(1), shape, 9, 80)
    assert same_nuclei(segment(paint(apart), tmp_path / "apart"), apart)
    crowd = paint(draw_crowd(1, shape, shape[0] * shape[1] // 1500))
    whole = find_instances(predict_probs(standardise(crowd), PixelNetwork(), Tiling(32, 2**13, 16), (0,)), Thresholds())
    found = segment(crowd, tmp_path / "crowd")
    assert found.max() == whole.max()
    # A pixel that two floods reach at once goes to either.
    assert average_precision(whole, found) == 1


def test_a_disc_on_a_seam_or_on_the_corner_of_four_blocks_is_one(small_blocks, tmp_path):
    discs = [(y, x, 12) for y in (50, 100, 150, 200, 250) for x in (50, 100, 150, 200, 250)]
    labels = draw_discs((300, 300), *discs)  # blocks of 100 px
    found = segment(paint(labels), tmp_path)
    assert found.max() == 25
    assert same_nuclei(found, labels)


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_discs_are_counted_at_any_zoom(small_blocks, tmp_path, zoom):
    radius = 12 / zoom
    discs = [(y, x, radius) for y in np.arange(1, 7) * 3 * radius for x in np.arange(1, 9) * 3 * radius]
    labels = draw_discs((int(21 * radius), int(27 * radius)), *discs)
    found = segment(paint(labels), tmp_path, zoom=zoom)
    assert found.max() == len(discs)
    assert np.count_nonzero((found > 0) != (labels > 0)) < 0.1 * np.count_nonzero(labels)  # edges are smoothed


@pytest.mark.parametrize("call", [0, 1, 20, 51])
def test_cut_off_it_resumes_with_the_block_that_was_at_work(small_blocks, tmp_path, call):
    image = paint(draw_crowd(2, (300, 300), 50))  # nine blocks, with their halos nine to sixteen tiles, two a call
    whole, rest, again = PixelNetwork(), PixelNetwork(), PixelNetwork()
    expected = segment(image, tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        segment(image, tmp_path, CutOff(call))
    assert np.array_equal(segment(image, tmp_path, rest), expected)
    assert 0 <= call + rest.calls - whole.calls < 8  # of the block at work, at most
    assert np.array_equal(segment(image, tmp_path, again), expected) and again.calls == 0


def test_confidences_stay_with_their_nuclei(tmp_path, small_blocks):
    """Each disc has a light of its own, which is what the network takes for its probability."""
    labels = draw_field(np.random.default_rng(1), (220, 260), 12, 16)
    image = paint(labels)
    image[..., 0] = np.where(labels > 0, 180 + 4 * labels, 0)
    journal = Journal(tmp_path / "x.journal")
    journal.once("zoom", lambda: 1.0)
    found, confidences, _ = segment_blocks(image, make_segmenter(PixelNetwork()), journal, "x")
    lut = standard_lut(image)[0, :, 0]
    mine = [lut[180 + 4 * labels[found == one].max()] / 255 for one in range(1, found.max() + 1)]
    assert len(set(mine)) == labels.max() == len(confidences)
    np.testing.assert_allclose(confidences, mine, atol=1e-6)


# ---- the zoom ----------------------------------------------------------------------------------


def test_the_zoom_is_found_where_nuclei_are_few_and_far_between(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "WINDOW", 96)
    labels = draw_discs((800, 800), *((y + 7 * x, 97 * x + 60, 24) for y in (60, 700) for x in range(0, 8, 3)))
    journal = Journal(tmp_path / "x.journal")
    segmenter = make_segmenter(PixelNetwork())
    found, _, _ = segment_blocks(paint(labels), segmenter, journal, "x")
    assert journal.done["zoom"] == pytest.approx(segmenter.zoom_for(nucleus_diameter(labels)), rel=0.08)
    assert found.max() == 6


@pytest.mark.parametrize("shape", [(16, 3000), (40, 17), (2100, 2500)])
def test_windows_are_taken_from_all_parts(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    windows = gather_windows(image)
    assert windows.shape == (*(4 * min(512, length // 4) for length in shape), 3)
