"""Formats: what a file is, told by its first bytes, whatever its name says."""

import contextlib
import struct
from collections.abc import Iterator

from nuclei.settings.config import BadInput

HEAD_BYTES = 512  # of a file, that tell its format
READ = "PNG, TIFF, JPEG, BMP, GIF or WebP"

_BIOFORMATS = "open it in Fiji, whose Bio-Formats reads it, and save it as OME-TIFF"
_SAVE = "save it as PNG or TIFF"
_FRAMES = "save its frames as PNG"
_UNPACK = "unpack it, and name the images in it"
_HDR = "save it as PNG; or name the image that it belongs to, if it is a header of Analyze or ENVI"

# What is read: where its mark stands, the mark, the format.
_READ = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),  # BigTIFF
    (0, b"MM\0+", "TIFF"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"BM", "BMP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WebP"),
)
# Images that are not read, and what to do with them.
_IMAGES = (
    (0, b"ZISRAWFILE", "Zeiss's CZI", _BIOFORMATS),
    (0, b"\xda\xce\xbe\x0a", "Nikon's ND2", _BIOFORMATS),
    (0, b"\x70\0\0\0", "Leica's LIF", _BIOFORMATS),
    (0, b"OLYMPUSRAWFORMAT", "Olympus's OIR", _BIOFORMATS),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft compound file (ZVI, OIB, Office)", _BIOFORMATS),
    (96, b"\xa0\xc0", "a DeltaVision file", _BIOFORMATS),
    (96, b"\xc0\xa0", "a DeltaVision file", _BIOFORMATS),
    (208, b"MAP ", "an MRC file", _BIOFORMATS),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Imaris, ilastik, BigDataViewer)", _BIOFORMATS),
    (128, b"DICM", "a DICOM file", _BIOFORMATS),
    (0, b"NRRD", "an NRRD file", _BIOFORMATS),
    (344, b"n+1\0", "a NIfTI file", _BIOFORMATS),
    (0, b"ics_version", "an ICS file", _BIOFORMATS),
    (0, b"\x93NUMPY", "a NumPy array", "save it with tifffile.imwrite, its axes named"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file, or an old ND2", _SAVE),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file", _SAVE),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file", _SAVE),
    (0, b"\xff\x0a", "a JPEG XL file", _SAVE),
    (0, b"II\xbc\x01", "a JPEG XR file", _SAVE),
    (4, b"ftypavif", "an AVIF file", _SAVE),
    (4, b"ftyphei", "a HEIC photograph", _SAVE),
    (4, b"ftypmif1", "a HEIC photograph", _SAVE),
    (4, b"ftypcrx", "a camera's raw photograph", _SAVE),
    (4, b"ftyp", "a film (MP4)", _FRAMES),
    (8, b"AVI ", "a film (AVI)", _FRAMES),
    (0, b"\x1aE\xdf\xa3", "a film (Matroska, WebM)", _FRAMES),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR file", _SAVE),
    (0, b"8BPS", "a Photoshop file", _SAVE),
    (0, b"gimp xcf", "a GIMP file", _SAVE),
    *((0, b"P%d" % kind + space, "a Netpbm file", _SAVE) for kind in range(1, 8) for space in (b"\n", b"\r", b" ")),
    (0, b"PF\n", "a PFM file", _SAVE),
    (0, b"Pf\n", "a PFM file", _SAVE),
    (0, b"DDS ", "a DDS texture", _SAVE),
    (0, b"#?RADIANCE", "a Radiance picture", _SAVE),
    (0, b"#?RGBE", "a Radiance picture", _SAVE),
    (0, b"SIMPLE  =", "a FITS file", _BIOFORMATS),
    (0, b"qoif", "a QOI file", _SAVE),
    (0, b"SDPX", "a DPX file", _SAVE),
    (0, b"XPDS", "a DPX file", _SAVE),
    (0, b"\x01\xda\0\1", "an SGI file", _SAVE),
    (0, b"\x01\xda\1\1", "an SGI file", _SAVE),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster file", _SAVE),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile", _SAVE),
    (0, b"AT&TFORM", "a DjVu document", _SAVE),
)
# Images without a mark at their start: by the ending of their names.
_BY_ENDING = {
    **dict.fromkeys(("tga", "icb", "vda", "vst"), ("a Targa file", _SAVE)),
    "pcx": ("a PCX file", _SAVE),
    "hdr": ("a header or a Radiance picture", _HDR),
    "pic": ("a PIC file, Bio-Rad's perhaps", _BIOFORMATS),
    "raw": ("raw numbers without a header", "open it by Import > Raw in Fiji, and save it as TIFF"),
    "xbm": ("an X bitmap", _SAVE),
    "xpm": ("an X pixmap", _SAVE),
    "wbmp": ("a wireless bitmap", _SAVE),
}
# What else is given for an image.
_OTHERS = (
    (0, b"\0\0\1\0", "a Windows icon", _SAVE),
    (0, b"\0\0\2\0\1\0", "a Windows cursor", _SAVE),
    (0, b"MATLAB 5.0", "a MAT-file of MATLAB", "write its images to TIFF, each by imwrite"),
    (0, b"%PDF", "a PDF", _SAVE),
    (0, b"%!PS", "a PostScript file", _SAVE),
    (0, b"PK\3\4", "a zip", _UNPACK),
    (0, b"\x1f\x8b", "a gzip file", _UNPACK),
    (0, b"BZh", "a bzip2 file", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\0\5\x16\7", "a side file of macOS", "name the file without ._ in front"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (0, b"<!doctype html", "a web page, as a failed download leaves it", "download the image again"),
    (0, b"<html", "a web page, as a failed download leaves it", "download the image again"),
    (0, b"<svg", "an SVG drawing", _SAVE),
    (0, b"<?xml", "an XML file", "name the image that it belongs to"),
)


def find_format(head: bytes) -> str | None:
    """Find the format that is read of a file that begins with these bytes, or None."""
    return next((what for start, mark, what in _READ if head.startswith(mark, start)), None)


def is_image(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes is an image, of a format that is read or of another."""
    return find_format(head) is not None or any(head.startswith(mark, start) for start, mark, *_ in _IMAGES)


def name_format(head: bytes) -> str:
    """Name what a file is that begins with these bytes: "a PNG file", "a tar archive"; "" where that is not known."""
    found = find_format(head)
    if found:
        return f"a {found} file"
    return next((what for start, mark, what, _ in (*_IMAGES, *_OTHERS) if head.startswith(mark, start)), "")


def identify(head: bytes, name: object) -> str:
    """Tell the format of a file by its first HEAD_BYTES bytes -> "PNG", "TIFF", "JPEG", "BMP", "GIF" or "WebP".

    Raises:
        BadInput: it is empty, or something else: the sentence says what, and what to do.
    """
    if not head:
        raise BadInput(f"{name} is empty, 0 bytes: replace it by a whole file")
    found = find_format(head)
    if found:
        return found
    for start, mark, other, mend in _IMAGES:
        if head.startswith(mark, start):
            raise BadInput(f"{name} is {other}, which is not read here: {mend}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()  # of a web page, whatever stands before it
    for start, mark, other, mend in _OTHERS:
        if head.startswith(mark, start) or (mark.startswith(b"<") and text.startswith(mark)):
            raise BadInput(f"{name} is {other}, and no image: {mend}")
    ending = str(name).lower().rpartition(".")[2]
    if ending in _BY_ENDING and any(head):
        other, mend = _BY_ENDING[ending]
        raise BadInput(f"{name} is {other}, which is not read here: {mend}")
    what = "holds zeros alone, as a copy that failed leaves it" if not any(head) else f"is not a {READ} file"
    raise BadInput(f"{name} {what}: replace it by a whole image")


@contextlib.contextmanager
def broken_by_name(name: object, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises at broken bytes into BadInput: each library has its own dozen of errors."""
    try:
        yield
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(f"{name} needs more memory than there is: cut it into parts") from None
    except ImportError as error:  # imagecodecs knows the codec, and was built without it
        raise BadInput(f"{name} is packed in a way that is not read here ({error}): save it with LZW or none") from None
    except OSError as error:
        if error.errno is None:  # Pillow's word for what is broken
            raise _broken(name, what, error) from None
        raise BadInput(f"{name} cannot be read: {error.strerror}") from None
    except Exception as error:
        raise _broken(name, what, error) from None


def _broken(name, what, error):
    """Say that a file is broken, and why where the decoder's word is of the file, and not of the decoder itself."""
    of_decoder = (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, struct.error)
    why = "" if isinstance(error, of_decoder) else " ".join(str(error).split())[:120]
    reason = f" ({why})" if why else ""
    return BadInput(f"{name} is a {what} that is broken or cut off: replace it by a whole file{reason}")
