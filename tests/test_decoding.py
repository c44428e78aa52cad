"""Decoding: the door for bytes and files, depths that are stretched, and what is not an image."""

import mmap

import numpy as np
import pytest
from drawn_files import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.settings.config import BadInput
from nuclei_kit.files import decoding
from nuclei_kit.files.decoding import decode_image, to_rgb

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
        (encode(RGB[:1, :1]), RGB[:1, :1]),
    ],
    ids=["rgb", "rgb tiff", "rgba", "grey", "grey tiff", "1x1"],
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


@pytest.mark.parametrize("ending", [".png", ".tiff", ".jpg", ".bmp", ".webp"])
def test_a_file_is_read_without_a_memory_map(tmp_path, monkeypatch, ending):
    """As from a file system that has none, such as a container's mount of a host's folder."""
    path = tmp_path / f"x{ending}"
    path.write_bytes(encode(RGB, ending))
    expected = decode_image(path.read_bytes(), "x")

    def refuse(*args, **settings):
        raise OSError(19, "No such device")

    monkeypatch.setattr(mmap, "mmap", refuse)
    monkeypatch.setattr(np, "memmap", refuse)
    assert np.array_equal(decode_image(path, "x"), expected)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"^x cannot be read: No such file or directory$"):
        decode_image(tmp_path / "gone.png", "x")


def test_what_a_file_is_called_does_not_count(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(RGB, ".tiff"))
    assert np.array_equal(decode_image(path, path), RGB)


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


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_as_large_as_they_get_warn_of_nothing(recwarn, kind):
    top = np.finfo(kind).max
    image = to_rgb(np.linspace(-1, 1, 12).reshape(3, 4).astype(kind) * top)
    assert image.shape == (3, 4, 3) and image.dtype == np.uint8 and not list(recwarn)
    assert image[0, 0, 0] == 0 and image[-1, -1, 0] == 255


def test_a_few_pixels_that_differ_from_the_rest_are_seen():
    pixels = np.full((90, 100), 500, np.uint16)
    pixels[3, :4], pixels[7, 7] = 900, 300
    image = to_rgb(pixels)[..., 0]
    assert (image[3, :4] == 255).all() and image[7, 7] == 0 and np.unique(image).size == 3


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
