"""Everyday formats: PNG by imagecodecs, in all its depths; JPEG, BMP, GIF and WebP by Pillow."""

import io
import struct
import warnings
from io import BufferedIOBase
from typing import Any

import imagecodecs
import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from nuclei.settings.config import BadInput
from nuclei_kit.files.formats import broken_by_name
from nuclei_kit.files.limits import check_pixels
from nuclei_kit.files.planes import COLOURS, Choice, Picture, Planes, choose_plane

# By class, since Image.open would count pixels by a limit of its own.
_PLUGINS: dict[str, Any] = {
    "PNG": PngImagePlugin.PngImageFile,  # films alone
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
# What of a PNG makes its pixels; the last three are of films. On profiles, dates and texts libpng would remark.
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}


def read_png(file: BufferedIOBase, name: object, most: int, choice: Choice | None) -> Picture:
    """Read a PNG, of a film (APNG) the one picture that is meant; args and errors as of `read_picture`."""
    with broken_by_name(name, "PNG"):
        content, pictures = _essential_chunks(file, name, most)
        if pictures > 1:
            return read_by_pillow(io.BytesIO(content), "PNG", name, most, choice)
        pixels = imagecodecs.png_decode(content)
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]  # without alpha
    return _choose(pixels, choose_plane(Planes(_channels(pixels.ndim == 3)), choice, name), "PNG")


def _essential_chunks(file, name, most):
    """Read what of a PNG makes its pixels -> (bytes, the number of its pictures).

    Raises:
        BadInput: it states more than `most` pixels.
    """
    content, pictures = bytearray(file.read(8)), 1
    while True:
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head)
        if kind not in _PNG_CHUNKS:
            file.seek(length + 4, io.SEEK_CUR)
            continue
        body = file.read(length + 4)
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
            check_pixels(height, width, most, name)
        elif kind == b"acTL":
            (pictures,) = struct.unpack_from(">I", body)
        content += head
        content += body
        if kind == b"IEND":
            return content, pictures


def read_by_pillow(file: BufferedIOBase, kind: str, name: object, most: int, choice: Choice | None) -> Picture:
    """Read a JPEG, BMP, GIF or WebP, of a film the one picture that is meant; args and errors as of `read_picture`.

    The orientation of a photograph is not applied, as ImageJ does not.
    """
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit here is `most`
    with broken_by_name(name, kind):
        try:
            image = _PLUGINS[kind](file)
        except SyntaxError as error:
            if "cannot handle" not in str(error):
                raise
            raise BadInput(f"{name} is a {kind} of a rare kind ({error}): save it as PNG or TIFF") from None
        check_pixels(image.height, image.width, most, name)
        count = getattr(image, "n_frames", 1)
        grey = image.mode in ("1", "L", "LA")
    plane = choose_plane(Planes(_channels(not grey), pages=count, word="picture"), choice, name)
    with broken_by_name(name, kind):
        if count > 1:
            image.seek(plane.page)
        check_pixels(image.height, image.width, most, name)  # a picture of a GIF may be larger than the first
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return _choose(pixels, plane, kind)


def _channels(in_colour):
    return COLOURS if in_colour else ("",)


def _choose(pixels, plane, kind):
    """Make a Picture of all pixels that were read, or of the one channel that is meant."""
    height, width = pixels.shape[:2]
    facts = f"{kind}, {height} x {width} ({'YXS' if pixels.ndim == 3 else 'YX'}), {pixels.dtype}"
    one = pixels.ndim == 3 and plane.channel != "all"
    channels = _channels(pixels.ndim == 3)
    return Picture(pixels[..., plane.channel] if one else pixels, facts, plane.said, channels=channels)
