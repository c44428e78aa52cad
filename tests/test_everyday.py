"""Everyday formats: PNG of every depth, JPEG, BMP, GIF and WebP, films; nothing is written past Python."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from drawn import draw_discs
from PIL import Image

from nuclei.settings.config import BadInput
from nuclei_kit.files.decoding import read_picture
from nuclei_kit.files.planes import Choice

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
GREY = RGB[..., 0]
SMOOTH = np.dstack([np.where(draw_discs((48, 64), (20, 30, 12)) > 0, 180, 40 * n) for n in range(3)]).astype(np.uint8)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(lines, width, depth, kind, *chunks):
    """Packed lines, uint8 (H, bytes a line), of a depth and a colour type -> PNG, with chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(lines), depth, kind, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def save(pixels, kind, **settings):
    """Pixels, or a PIL image -> the bytes of a file that Pillow writes."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **settings)
    return file.getvalue()


def big_endian(pixels):
    return pixels.astype(">u2").reshape(len(pixels), -1).view(np.uint8)


DEEP = RNG.integers(0, 65536, (6, 8, 4), np.uint16)
ON_ITS_SIDE = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # orientation 6
BITS = RNG.integers(0, 2, (6, 8), np.uint8)
PALETTE = chunk(b"PLTE", bytes(range(30, 42)))
TWO_BITS = np.repeat([[0b00011011] * 2], 6, axis=0).astype(np.uint8)  # 0 1 2 3 0 1 2 3


@pytest.mark.parametrize(
    "content, expected",
    [
        (png(GREY, 8, 8, 0), GREY),
        (png(RGB.reshape(6, -1), 8, 8, 2), RGB),
        (png(np.packbits(BITS, axis=1), 8, 1, 0), BITS * 255),
        (png(TWO_BITS, 8, 2, 0), np.tile(np.arange(4, dtype=np.uint8) * 85, (6, 2))),
        (png(TWO_BITS, 8, 2, 3, PALETTE), np.tile(np.arange(30, 42, dtype=np.uint8).reshape(4, 3), (6, 2, 1))),
        (
            png(TWO_BITS, 8, 2, 3, PALETTE, chunk(b"tRNS", b"\0\x80")),
            np.tile(np.arange(30, 42, dtype=np.uint8).reshape(4, 3), (6, 2, 1)),
        ),
        (png(big_endian(DEEP[..., 0]), 8, 16, 0), DEEP[..., 0]),
        (png(big_endian(DEEP[..., :3]), 8, 16, 2), DEEP[..., :3]),
        (png(big_endian(DEEP[..., :2]), 8, 16, 4), DEEP[..., 0]),
        (png(big_endian(DEEP), 8, 16, 6), DEEP[..., :3]),
        (png(GREY, 8, 8, 0, chunk(b"gAMA", struct.pack(">I", 30000))), GREY),
        (save(RGB, "PNG", exif=ON_ITS_SIDE), RGB),
        (save(RGB, "WEBP", lossless=True), RGB),
        (save(np.dstack([RGB, GREY]), "WEBP", lossless=True, exact=True), RGB),
        (save(RGB, "BMP"), RGB),
        (save(GREY, "BMP"), GREY),
        (save(Image.fromarray(BITS * 255).convert("1"), "BMP"), BITS * 255),
        (save(Image.fromarray(RGB).quantize(), "BMP"), np.asarray(Image.fromarray(RGB).quantize().convert("RGB"))),
        (save(np.dstack([RGB, GREY]), "BMP"), RGB),
        (save(GREY, "GIF"), np.repeat(GREY[..., None], 3, axis=2)),
    ],
)
def test_pixels_come_back(content, expected):
    pixels = read_picture(content, "x.png").pixels
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"exif": ON_ITS_SIDE}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_photographs_keep_their_colours_and_lie_as_they_are_stored(mode, settings):
    stored = Image.fromarray(SMOOTH).convert(mode)
    expected = np.asarray(stored.convert("RGB") if mode == "CMYK" else stored)
    pixels = read_picture(save(stored, "JPEG", quality=98, **settings), "x.jpg").pixels
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.mean((0, 1)), expected.mean((0, 1)), atol=3)
    assert np.median(np.abs(pixels.astype(int) - expected)) <= 4


FILMS = {kind: save(RGB, kind, save_all=True, append_images=[Image.fromarray(255 - RGB)], **settings)
         for kind, settings in (("PNG", {}), ("WEBP", {"lossless": True}))}  # fmt: skip
FILMS["GIF"] = save(GREY, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)])


@pytest.mark.parametrize("kind", FILMS)
def test_of_a_film_a_picture_is_chosen(kind):
    first = GREY if kind == "GIF" else RGB
    for number, expected in ((1, first), (2, 255 - first)):
        picture = read_picture(FILMS[kind], "x", choice=Choice(page=number))
        pixels = picture.pixels[..., 0] if kind == "GIF" and picture.pixels.ndim == 3 else picture.pixels
        np.testing.assert_array_equal(pixels, expected)
        assert picture.chosen == f"picture {number} of 2"
    with pytest.raises(BadInput, match="x holds 2 pictures: choose with --page N"):
        read_picture(FILMS[kind], "x", choice=Choice())


def test_a_colour_is_chosen_as_a_channel():
    for content in (save(RGB, "PNG"), save(RGB, "BMP")):
        np.testing.assert_array_equal(read_picture(content, "x", choice=Choice("green")).pixels, RGB[..., 1])
        assert read_picture(content, "x", choice=Choice("3")).chosen == "channel 3 of 3, blue"
    with pytest.raises(BadInput, match="no channel 'DAPI': it holds 3 channels"):
        read_picture(save(RGB, "PNG"), "x", choice=Choice("DAPI"))


WHOLE = {
    "PNG": save(RGB, "PNG"),
    "JPEG": save(SMOOTH, "JPEG"),
    "BMP": save(RGB, "BMP"),
    "GIF": save(GREY, "GIF"),
    "WebP": save(SMOOTH, "WEBP"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_cut_off_is_refused(kind):
    content = WHOLE[kind]
    for length in (20, len(content) // 2, len(content) - 20):
        with pytest.raises(BadInput, match=rf"^x is a {kind} that is broken or cut off: replace it"):
            read_picture(content[:length], "x")


@pytest.mark.parametrize("kind", WHOLE)
def test_an_absurd_size_is_refused_before_memory_is_taken(kind):
    height, width = read_picture(WHOLE[kind], "x").pixels.shape[:2]
    with pytest.raises(
        BadInput, match=rf"^x states {height} x {width} pixels, over the limit of {height * width - 1:,}: "
    ):
        read_picture(WHOLE[kind], "x", most=height * width - 1)


def broken_profile():
    return png(GREY, 8, 8, 0, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200))), chunk(b"tEXt", b"\0"))


def test_decoders_write_nothing_past_python(capfd):
    flipped = bytearray(WHOLE["PNG"])
    flipped[-30] ^= 0x55
    corrupt = bytearray(WHOLE["JPEG"])
    corrupt[-200:-100] = bytes(100)
    for content in (broken_profile(), bytes(flipped), bytes(corrupt), WHOLE["JPEG"][:-40], WHOLE["PNG"][:60]):
        try:
            read_picture(content, "x")
        except BadInput:
            continue
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(read_picture(broken_profile(), "x").pixels, GREY)


def test_a_png_is_read_as_opencv_reads_it():
    for pixels in (RGB, GREY, RGB.astype(np.uint16) * 200):
        content = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
        np.testing.assert_array_equal(read_picture(content, "x").pixels, pixels)
