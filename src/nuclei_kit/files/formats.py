"""Formats: what a file is, told by its first bytes, whatever its name says."""

import contextlib
from collections.abc import Iterator

from nuclei.settings.config import BadInput

HEAD_BYTES = 512  # of a file, that tell its format
READ = "PNG, TIFF, JPEG, BMP, GIF or WebP"

_MICROSCOPE = "open it in Fiji, whose Bio-Formats reads it, and save it as OME-TIFF"
_PICTURE = "save it as PNG or TIFF"
_PACKED = "unpack it, and name the images in it"

# What is read: where its mark stands, the mark, the format.
_FORMATS = (
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
# What people give, too, and what to do with it instead.
_OTHERS = (
    (0, b"ZISRAWFILE", "Zeiss's CZI", _MICROSCOPE),
    (0, b"\xda\xce\xbe\x0a", "Nikon's ND2", _MICROSCOPE),
    (0, b"\x70\0\0\0", "Leica's LIF", _MICROSCOPE),
    (0, b"OLYMPUSRAWFORMAT", "Olympus's OIR", _MICROSCOPE),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Microsoft compound file (ZVI, OIB, Office)", _MICROSCOPE),
    (96, b"\xa0\xc0", "DeltaVision file", _MICROSCOPE),
    (96, b"\xc0\xa0", "DeltaVision file", _MICROSCOPE),
    (208, b"MAP ", "MRC file", _MICROSCOPE),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 file (Imaris, ilastik, BigDataViewer)", _MICROSCOPE),
    (128, b"DICM", "DICOM file", _MICROSCOPE),
    (0, b"NRRD", "NRRD file", _MICROSCOPE),
    (344, b"n+1\0", "NIfTI file", _MICROSCOPE),
    (0, b"ics_version", "ICS file", _MICROSCOPE),
    (0, b"\x93NUMPY", "NumPy array", "save it with tifffile.imwrite, its axes named"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 file (or an old ND2)", _PICTURE),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000 file", _PICTURE),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL file", _PICTURE),
    (0, b"\xff\x0a", "JPEG XL file", _PICTURE),
    (4, b"ftypavif", "AVIF file", _PICTURE),
    (4, b"ftyphei", "HEIC photograph", _PICTURE),
    (4, b"ftypmif1", "HEIC photograph", _PICTURE),
    (4, b"ftyp", "film (MP4)", "save its frames as PNG"),
    (8, b"AVI ", "film (AVI)", "save its frames as PNG"),
    (0, b"\x1aE\xdf\xa3", "film (Matroska, WebM)", "save its frames as PNG"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR file", _PICTURE),
    (0, b"8BPS", "Photoshop file", _PICTURE),
    (0, b"gimp xcf", "GIMP file", _PICTURE),
    (0, b"II\xbc\x01", "JPEG XR file", _PICTURE),
    (0, b"P4", "Netpbm file", _PICTURE),
    (0, b"P5", "Netpbm file", _PICTURE),
    (0, b"P6", "Netpbm file", _PICTURE),
    (0, b"\0\0\1\0", "Windows icon", _PICTURE),
    (0, b"%PDF", "PDF", _PICTURE),
    (0, b"%!PS", "PostScript file", _PICTURE),
    (0, b"PK\3\4", "zip", _PACKED),
    (0, b"\x1f\x8b", "gzip file", _PACKED),
    (0, b"BZh", "bzip2 file", _PACKED),
    (0, b"\xfd7zXZ\0", "xz file", _PACKED),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive", _PACKED),
    (0, b"Rar!", "RAR archive", _PACKED),
    (257, b"ustar", "tar archive", _PACKED),
    (0, b"\0\5\x16\7", "macOS side file, without pixels", "name the file without ._ in front"),
    (0, b"version https://git-lfs", "pointer of Git LFS, without pixels", "fetch the file itself: git lfs pull"),
    (0, b"<!doctype html", "web page, as a failed download leaves it", "download the image again"),
    (0, b"<html", "web page, as a failed download leaves it", "download the image again"),
    (0, b"<svg", "SVG drawing", _PICTURE),
    (0, b"<?xml", "XML file", "name the image that it belongs to"),
)


def identify(head: bytes, name: object) -> str:
    """Tell the format of a file by its first HEAD_BYTES bytes -> "PNG", "TIFF", "JPEG", "BMP", "GIF" or "WebP".

    Raises:
        BadInput: it is empty, or something else: the sentence says what, and what to do.
    """
    if not head:
        raise BadInput(f"{name} is empty, 0 bytes: replace it by a whole file")
    for start, mark, what in _FORMATS:
        if head.startswith(mark, start):
            return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, mark, other, mend in _OTHERS:
        if head.startswith(mark, start) or (start == 0 and mark[:1] in b"<%v" and text.startswith(mark.lower())):
            raise BadInput(f"{name} is a {other}, which is not read here: {mend}")
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
    except OSError as error:
        if error.errno is None:  # Pillow's word for what is broken
            raise _broken(name, what, error) from None
        raise BadInput(f"{name} cannot be read: {error.strerror}") from None
    except Exception as error:
        raise _broken(name, what, error) from None


def _broken(name, what, error):
    why = " ".join(str(error).split())[:120]
    return BadInput(f"{name} is a {what} that is broken or cut off: replace it by a whole file ({why})")
