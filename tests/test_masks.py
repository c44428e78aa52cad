"""Masks: a file that can mean one nucleus alone is taken, in whatever form; all else is said to be what it is."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from drawn import draw_discs
from drawn_files import encode

from nuclei.settings.config import BadInput
from nuclei_kit.files.masks import count_parts, decode_mask, is_hollow, read_masks

SHAPE = (60, 80)
NUCLEUS = draw_discs(SHAPE, (25, 30, 12)) > 0
many = draw_discs(SHAPE, (14, 14, 9), (14, 40, 9), (40, 30, 12), (44, 64, 10))  # the last two nearly touch
TOUCHING = np.where(many > 0, 1 + (np.indices(SHAPE)[1] > 30), 0)
PICTURE = np.random.default_rng(0).integers(20, 60, SHAPE) + 120 * (many > 0)
EDGES = cv2.morphologyEx((many > 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
SOFT = cv2.GaussianBlur(NUCLEUS.astype(np.float32), (0, 0), 5)  # a map of probabilities
HUES = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], np.uint8)


def one_bit(mask, photometric):
    """A mask, bool (H, W), as tifffile writes it: miniswhite by default."""
    file = io.BytesIO()
    tifffile.imwrite(file, mask, photometric=photometric)
    return file.getvalue()


def grey(pixels, ending=".png", kind=np.uint8):
    return encode(pixels.astype(kind), ending)


def rgba(colours, alpha):
    return encode(np.dstack([np.broadcast_to(colours, (*SHAPE, 3)), alpha]).astype(np.uint8))


TAKEN = {
    "0 and 255": grey(NUCLEUS * 255),
    "0 and 1": grey(NUCLEUS),
    "0 and 7": grey(NUCLEUS * 7),
    "1 and 2": grey(NUCLEUS + 1),
    "one bit": cv2.imencode(".png", NUCLEUS * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes(),
    "16 bits of 0 and 1": grey(NUCLEUS, kind=np.uint16),
    "16 bits": grey(NUCLEUS * 65535, kind=np.uint16),
    "a TIFF": grey(NUCLEUS * 255, ".tiff"),
    "a bool array by tifffile": one_bit(NUCLEUS, None),
    "one bit, white stored as 0": one_bit(~NUCLEUS, "miniswhite"),
    "one bit, white stored as 1": one_bit(NUCLEUS, "minisblack"),
    "float": grey(NUCLEUS, ".tiff", np.float32),
    "float, NaN around": grey(np.where(NUCLEUS, 1, np.nan), ".tiff", np.float32),
    "grey in RGB": encode(np.repeat(NUCLEUS[..., None] * np.uint8(255), 3, axis=2)),
    "red on black": encode(HUES[NUCLEUS * 1]),
    "opaque RGBA": rgba((NUCLEUS * 255)[..., None], np.full(SHAPE, 255)),
    "drawn in alpha, too": rgba((NUCLEUS * 255)[..., None], NUCLEUS * 255),
    "JPEG": cv2.imencode(".jpg", NUCLEUS * np.uint8(255), [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes(),
    "red JPEG": encode(HUES[NUCLEUS * 1], ".jpg"),
    "smoothed": grey(cv2.GaussianBlur(NUCLEUS * 255.0, (0, 0), 1)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_mask_of_one_nucleus_is_taken_in_every_form(name):
    mask = decode_mask(TAKEN[name], "m.png", SHAPE)
    assert mask.dtype == bool and mask.shape == SHAPE
    assert np.count_nonzero(mask != NUCLEUS) <= (9 if "JPEG" in name or name == "smoothed" else 0)


REFUSED = {
    "label image": (grey(many), "holds 4 labels, as a label image does: write each nucleus to a file of its own"),
    "label image, 16 bits": (grey(many * 1000, kind=np.uint16), "holds 4 labels"),
    "label image, float": (grey(many, ".tiff", np.float32), "holds 4 labels"),
    "two labels that touch": (grey(TOUCHING), "holds 2 labels"),
    "two high labels": (grey(np.choose(TOUCHING, (0, 254, 255))), "holds 2 labels"),
    "coloured map": (encode(HUES[many]), "is in several colours"),
    "overlay": (encode(np.where(NUCLEUS[..., None], HUES[1], PICTURE[..., None]).astype(np.uint8)), "several colours"),
    "coloured picture": (encode(np.dstack([PICTURE, PICTURE[::-1], 0 * PICTURE]).astype(np.uint8)), "several colours"),
    "the picture in RGB": (
        encode(np.repeat(PICTURE[..., None], 3, axis=2).astype(np.uint8)),
        "has many shades of grey",
    ),
    "outlines on the picture": (
        encode(
            np.where((many > 0)[..., None] & ~EDGES[..., None], PICTURE[..., None], HUES[1] * EDGES[..., None]).astype(
                np.uint8
            )
        ),
        "several colours",
    ),
    "the picture": (grey(PICTURE), "has many shades of grey, as a picture or a map of probabilities does"),
    "probabilities": (grey(SOFT, ".tiff", np.float32), "map of probabilities"),
    "probabilities, 8 bits": (grey(SOFT * 255), "map of probabilities"),
    "negative": (grey(~NUCLEUS * 255), "is bright around its nucleus, as a negative is: invert it"),
    "negative of one bit, white stored as 1": (one_bit(~NUCLEUS, "minisblack"), "as a negative is"),
    "negative, 1 and 2": (grey(2 - NUCLEUS), "as a negative is"),
    "all white": (grey(np.full(SHAPE, 255)), "is bright all over"),
    "drawn in alpha": (rgba(255, NUCLEUS * 255), "is bright all over: .*not by transparency"),
    "infinite": (grey(np.where(NUCLEUS, np.inf, 0), ".tiff", np.float32), "holds infinite numbers"),
    "another size": (grey(NUCLEUS[:50] * 255), "is 50x80 but its image is 60x80"),
    "turned": (grey(NUCLEUS.T * 255), "is 80x60 but its image is 60x80"),
    "no image": (
        b"x,y\n1,2\n",
        "is not a PNG.*; or delete it, since each file of a folder of masks is taken for a nucleus",
    ),
    "nothing": (b"", "is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_mask_of_one_nucleus_is_said_to_be_what_it_is(name):
    content, words = REFUSED[name]
    with pytest.raises(BadInput, match=f"^m.png .*{words}"):
        decode_mask(content, "m.png", SHAPE)


def test_one_mask_of_all_nuclei_is_refused():
    with pytest.raises(BadInput, match=r"^m\.png holds 4 separate parts, as one mask of many nuclei does"):
        read_masks({"m.png": grey(many > 0)}, SHAPE)


def test_a_nucleus_in_two_parts_among_others_is_told():
    cut = NUCLEUS.copy()
    cut[24:27] = False
    masks, parted = read_masks({"1": grey(cut), "2": grey(many == 4)}, SHAPE)
    assert parted == ["1"] and [mask.size for mask in masks] == [cut.sum(), (many == 4).sum()]


def test_outlines_are_refused_and_one_nucleus_with_a_hole_is_not():
    inner = cv2.erode(many.astype(np.uint8), np.ones((3, 3), np.uint8))
    outlines = {str(i): grey((many == i) & (inner != i)) for i in range(1, 5)}
    with pytest.raises(BadInput, match=r"^1 is hollow, as a nucleus's outline is: fill it"):
        read_masks(outlines, SHAPE)
    masks, _ = read_masks(outlines | {str(i): grey(many == i) for i in (2, 3, 4)}, SHAPE)
    assert len(masks) == 4
    assert not is_hollow(NUCLEUS) and is_hollow((many == 1) & (inner != 1))


def test_specks_beside_a_nucleus_are_no_parts_of_it():
    speckled = NUCLEUS.copy()
    speckled[50:54, 60:64] = speckled[5, 5] = True
    assert (count_parts(NUCLEUS), count_parts(speckled), count_parts(many > 0)) == (1, 1, 4)


def test_a_single_black_mask_means_no_nuclei_and_among_others_it_is_a_mistake():
    black = grey(np.zeros(SHAPE))
    assert read_masks({"m.png": black}, SHAPE) == ([], []) == read_masks({}, SHAPE)
    assert read_masks({"m.tif": one_bit(np.zeros(SHAPE, bool), None)}, SHAPE) == ([], [])
    with pytest.raises(BadInput, match=r"^m\.png is an empty mask: delete the file, or draw its nucleus"):
        read_masks({"1.png": grey(NUCLEUS), "m.png": black}, SHAPE)
