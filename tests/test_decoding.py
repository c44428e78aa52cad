"""Decoding: every kind of PNG and TIFF, depths that are stretched, masks, and what is not an image."""

import struct
import zlib

import numpy as np
import pytest
from drawn_files import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.settings.config import BadInput
from nuclei_kit.files import decoding
from nuclei_kit.files.decoding import decode_image, decode_mask


def palette_png(indices, palette):
    """uint8 (H, W) indices into `palette`, rows of RGB -> the bytes of a palette PNG, which OpenCV cannot write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = indices.shape
    lines = b"".join(b"\0" + line.tobytes() for line in indices)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", bytes(palette.astype(np.uint8).ravel())),
            chunk(b"IDAT", zlib.compress(lines)),
            chunk(b"IEND", b""),
        ]
    )


RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = np.repeat(RGB[..., :1], 3, axis=2)


@pytest.mark.parametrize(
    "content, expected",
    [
        (encode(RGB), RGB),
        (encode(RGB, ".tiff"), RGB),
        (encode(np.dstack([RGB, RGB[..., 0]])), RGB),
        (encode(RGB[..., 0]), GREY),
        (encode(RGB[..., 0], ".tiff"), GREY),
        (palette_png(np.arange(35, dtype=np.uint8).reshape(5, 7), RGB.reshape(35, 3)), RGB),
        (encode(RGB[:1, :1]), RGB[:1, :1]),
    ],
    ids=["rgb", "rgb tiff", "rgba", "grey", "grey tiff", "palette", "1x1"],
)
def test_eight_bits_pass_as_they_are(content, expected):
    image = decode_image(content, "file")
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
@pytest.mark.parametrize("low, high", [(0, 65535), (100, 4095), (30000, 30200)])
def test_sixteen_bits_are_stretched_over_what_they_hold(ending, channels, low, high):
    ramp = np.linspace(low, high, 60 * 50).round().astype(np.uint16).reshape(60, 50)
    pixels = np.repeat(ramp[..., None], channels[0], axis=2) if channels else ramp
    image = decode_image(encode(pixels, ending), "file")
    assert image.shape == (60, 50, 3) and image.dtype == np.uint8
    expected = (ramp - low) / (high - low) * 255
    np.testing.assert_allclose(image, np.repeat(expected[..., None], 3, axis=2), atol=1.5)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("pixels", [RGB, RGB[..., 0], RGB.astype(np.uint16) * 200], ids=["rgb", "grey", "16 bits"])
def test_a_file_is_decoded_as_its_bytes_are(tmp_path, ending, pixels):
    path = tmp_path / f"Zellkerne ü{ending}"
    path.write_bytes(encode(pixels, ending))
    assert np.array_equal(decode_image(path, "file"), decode_image(path.read_bytes(), "file"))
    with pytest.raises(BadInput, match="file states 5 x 7 pixels"):
        decode_image(path, "file", most=34)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_large_image_is_stretched_by_some_of_its_pixels(monkeypatch, channels):
    small = np.random.default_rng(0).integers(0, 2**16, (20, 30, *channels), np.uint16)
    large = small.repeat(7, axis=0).repeat(7, axis=1)
    expected = decode_image(encode(small), "file").repeat(7, axis=0).repeat(7, axis=1)
    monkeypatch.setattr(decoding, "MAX_SORTED", small.size)
    assert np.array_equal(decode_image(encode(large), "file"), expected)


@given(st.integers(-20, 20), st.floats(-1e3, 1e3), st.booleans())
@settings(max_examples=40)
def test_floats_of_any_scale_give_the_same_image(exponent, offset, negate):
    ramp = np.linspace(0, 1, 400).reshape(20, 20)
    expected = decode_image(encode(ramp.astype(np.float32), ".tiff"), "file")
    assert expected.min() == 0 and expected.max() == 255
    scaled = (-ramp if negate else ramp) * 10.0**exponent
    if abs(offset) < 10.0**exponent * 100:  # else float32 itself loses the ramp
        scaled = scaled + offset
    image = decode_image(encode(scaled.astype(np.float32), ".tiff"), "file")
    np.testing.assert_allclose(image, 255.0 - expected if negate else expected, atol=1.01)


def test_what_is_no_number_leaves_the_rest_as_it_was():
    ramp = 1000 + np.linspace(0, 10, 2000, dtype=np.float32).reshape(40, 50)
    broken = ramp.copy()
    broken[20, :3] = np.nan, np.inf, -np.inf
    image, whole = (decode_image(encode(pixels, ".tiff"), "file") for pixels in (broken, ramp))
    assert image[20, :3, 0].tolist() == [0, 255, 0]
    image[20, :3] = whole[20, :3]
    np.testing.assert_allclose(image, whole.astype(float), atol=1)


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan, np.inf])
def test_a_blank_float_image_is_blank(value):
    image = decode_image(encode(np.full((3, 4), value, np.float32), ".tiff"), "file")
    assert image.shape == (3, 4, 3) and not image.any()


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "is empty"),
        (b"no image", "is not a PNG, TIFF"),
        (bytes(900), "holds zeros alone"),
        (encode(RGB)[:30], "is a PNG that is broken or cut off"),
        (encode(RGB, ".tiff")[:40], "is a TIFF that is broken or cut off"),
    ],
)
def test_what_is_no_image_is_refused_by_name(content, why):
    with pytest.raises(BadInput, match=rf"some/file\.png {why}.*replace it"):
        decode_image(content, "some/file.png")


@pytest.mark.parametrize("dtype, foreground", [(np.uint8, 255), (np.uint8, 1), (np.uint16, 65535), (np.uint16, 1)])
def test_a_mask_of_any_depth_gives_its_pixels(dtype, foreground):
    pixels = np.zeros((5, 7), dtype)
    pixels[1, 2] = pixels[4, 6] = foreground
    assert decode_mask(encode(pixels), "mask", (5, 7)).tolist() == [9, 34]


@pytest.mark.parametrize(
    "content, word",
    [
        (b"no image", "replace"),
        (encode(np.ones((5, 6), np.uint8)), "5x6"),
        (encode(np.zeros((5, 7), np.uint8)), "empty"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(content, word):
    with pytest.raises(BadInput, match=rf"some/mask\.png .*{word}"):
        decode_mask(content, "some/mask.png", (5, 7))
