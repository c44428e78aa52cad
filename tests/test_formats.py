"""Formats: each file is told by its content, and what is not read is named, with what to do."""

import struct

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.files.formats import broken_by_name, identify, is_image, name_format


def at(place, mark):
    return bytes(place) + mark + bytes(200)


@pytest.mark.parametrize(
    "head, expected",
    [
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0\x08\0\0\0", "TIFF"),
        (b"MM\0+\0\x08\0\0", "TIFF"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"BM\x10", "BMP"),
        (b"GIF89a", "GIF"),
        (b"RIFF\x10\0\0\0WEBP", "WebP"),
    ],
)
def test_what_is_read_is_told_by_its_first_bytes(head, expected):
    assert identify(head + bytes(99), "x") == expected and is_image(head + bytes(99))


@pytest.mark.parametrize(
    "head, word, mend, image",
    [
        (at(0, b"ZISRAWFILE"), "CZI", "Fiji", True),
        (at(0, b"\xda\xce\xbe\x0a"), "ND2", "Fiji", True),
        (at(0, b"\x70\0\0\0"), "LIF", "Fiji", True),
        (at(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "OIB", "Fiji", True),
        (at(96, b"\xa0\xc0"), "DeltaVision", "Fiji", True),
        (at(0, b"\x89HDF\r\n\x1a\n"), "HDF5", "Fiji", True),
        (at(128, b"DICM"), "DICOM", "Fiji", True),
        (at(0, b"\x93NUMPY"), "NumPy", "tifffile", True),
        (at(4, b"ftypheic"), "HEIC", "PNG", True),
        (at(4, b"ftypavif"), "AVIF", "PNG", True),
        (at(4, b"ftypisom"), "MP4", "frames", True),
        (b"RIFF\0\0\0\0AVI LIST", "AVI", "frames", True),
        (at(0, b"\0\0\0\x0cjP  \r\n\x87\n"), "JPEG 2000", "PNG", True),
        (at(4, b"ftypcrx "), "raw photograph", "PNG", True),
        (b"P2\n3 3\n255\n", "Netpbm", "PNG", True),
        (b"P7\nWIDTH 3\n", "Netpbm", "PNG", True),
        (b"Pf\n3 3\n-1.0\n", "PFM", "PNG", True),
        (at(0, b"DDS |"), "DDS", "PNG", True),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance", "PNG", True),
        (b"SIMPLE  =                    T", "FITS", "Fiji", True),
        (at(0, b"\x59\xa6\x6a\x95"), "Sun raster", "PNG", True),
        (at(0, b"%PDF-1.7"), "PDF", "PNG", False),
        (at(0, b"MATLAB 5.0 MAT-file"), "MATLAB", "imwrite", False),
        (at(0, b"PK\3\4"), "zip", "unpack", False),
        (at(0, b"\x1f\x8b"), "gzip", "unpack", False),
        (at(0, b"\0\5\x16\7"), "macOS", "._", False),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS", "git lfs pull", False),
        (b"\xef\xbb\xbf\n  <!DOCTYPE html><html>", "web page", "download", False),
        (b"<?xml version='1.0'?>", "XML", "image", False),
        (bytes(500), "zeros", "whole", False),
        (b"", "empty", "whole", False),
        (b"x,y\n1,2\n", "not a PNG", "replace", False),
    ],
)
def test_what_is_not_read_is_named(head, word, mend, image):
    with pytest.raises(BadInput, match=rf"^some/x\.png .*{word}.*: .*{mend}"):
        identify(head, "some/x.png")
    assert is_image(head) == image


@pytest.mark.parametrize(
    "name, word",
    [("x.tga", "a Targa file"), ("A/X.TGA", "Targa"), ("x.pcx", "PCX"), ("set.zip: x.hdr", "header"), ("x.raw", "raw")],
)
def test_images_without_a_mark_are_named_by_their_ending(name, word):
    head = b"\0\0\x02" + bytes(9) + b"\x40\0\x40\0\x18\0" + bytes(200)
    with pytest.raises(BadInput, match=rf"^{name} is .*{word}.*, which is not read here: (save|open)"):
        identify(head, name)
    with pytest.raises(BadInput, match="holds zeros alone"):
        identify(bytes(99), name)
    assert identify(b"\x89PNG\r\n\x1a\n", name) == "PNG"  # the content goes before the name


@pytest.mark.parametrize(
    "head, expected",
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG file"),
        (at(257, b"ustar"), "a tar archive"),
        (at(0, b"DDS "), "a DDS texture"),
        (b"ImageId,EncodedPixels\n", ""),
        (b"P5,P6\n", ""),
        (b"", ""),
    ],
)
def test_a_format_is_named_or_not_known(head, expected):
    assert name_format(head) == expected


@pytest.mark.parametrize(
    "error", [KeyError(0), IndexError("list index out of range"), struct.error("unpack requires a buffer of 8 bytes")]
)
def test_a_decoder_s_words_of_itself_are_left_out(error):
    with pytest.raises(BadInput, match=r"^x is a PNG .*: replace it by a whole file$"), broken_by_name("x", "PNG"):
        raise error


@pytest.mark.parametrize(
    "error, words",
    [
        (ValueError("odd\n  tag"), "x is a TIFF that is broken or cut off: .*odd tag"),
        (OSError("image file is truncated"), "x is a TIFF that is broken or cut off: .*truncated"),
        (OSError(5, "Input/output error"), "x cannot be read: Input/output error"),
        (MemoryError(), "x needs more memory than there is"),
        (ImportError("no codec"), "x is packed in a way that is not read here"),
        (BadInput("as it is"), "^as it is$"),
    ],
)
def test_whatever_a_decoder_raises_is_a_sentence(error, words):
    with pytest.raises(BadInput, match=words), broken_by_name("x", "TIFF"):
        raise error


def test_ctrl_c_passes():
    with pytest.raises(KeyboardInterrupt), broken_by_name("x", "TIFF"):
        raise KeyboardInterrupt
