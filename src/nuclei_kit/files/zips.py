"""Zips: files in archives from outside, unpacked within bounds."""

import stat
import struct
import zipfile
import zlib
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei_kit.files.limits import check_bytes

# Everything that Python's zipfile raises on a broken zip, whether broken on purpose or not.
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
    UnicodeError,
)
ENCRYPTED = 0x1  # the flag of an entry that needs a password
# What else is found under the name of a zip, by its first bytes.
OTHERS = {
    b"<": "a web page, as Kaggle sends it to whom it does not know: sign in, and download it again",
    b"7z\xbc\xaf": "a 7z archive: pack it as a zip",
    b"Rar!": "a RAR archive: pack it as a zip",
    b"\x1f\x8b": "a gzip archive: pack it as a zip",
    b"BZh": "a bzip2 archive: pack it as a zip",
    b"\xfd7zXZ": "an xz archive: pack it as a zip",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with git lfs pull",
}


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip.

    Raises:
        BadInput: it is truncated, or something else.
        PermissionError: to download it again would not help.
    """
    try:
        return zipfile.ZipFile(path)
    except PermissionError:
        raise
    except BROKEN_ZIP as error:
        other = recognise(path)
        raise BadInput(
            f"{path} is {other}" if other else f"{path} is truncated or not a zip: download it again ({error})"
        ) from None


def recognise(path: Path) -> str:
    """Say what a file is that ought to be a zip; "" where that is not known."""
    with open(path, "rb") as file:
        start = file.read(64).lstrip()
    return next((what for magic, what in OTHERS.items() if start.startswith(magic)), "")


def unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """Unpack one file of a ZipFile -> its bytes, of which there are `most` at most, whatever the zip claims.

    Raises:
        BadInput: it has more bytes, is encrypted or a link, or is packed by another method than zip's usual ones.
        BROKEN_ZIP: it cannot be unpacked.
    """
    name = f"{archive.filename}: {entry.filename}"
    if entry.flag_bits & ENCRYPTED:
        raise BadInput(f"{name} is encrypted: zip it again without a password")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BadInput(f"{name} is a link: zip the files themselves, without -y")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{name} is packed by an unusual method: zip it again with deflate")
    check_bytes(entry.file_size, most, name)
    with archive.open(entry) as file:
        return file.read(entry.file_size + 1)  # one byte more makes zipfile verify the checksum
