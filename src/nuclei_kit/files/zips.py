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
# What else is found under the name of a zip or a CSV, by its first bytes.
OTHERS = {
    b"<": "a web page, as Kaggle sends it to whom it does not know",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\x1f\x8b": "a gzip archive",
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
        with open(path, "rb") as file:
            other = recognise(file.read(64))
        mend = "pack it as a zip" if other.endswith("archive") else "download it again"
        what = f"{other}, not a zip: {mend}" if other else f"truncated or not a zip: {mend} ({error})"
        raise BadInput(f"{path} is {what}") from None


def recognise(start: bytes) -> str:
    """Say what a file is that ought to be a zip or a CSV, by its first bytes; "" where that is not known."""
    return next((what for magic, what in OTHERS.items() if start.lstrip().startswith(magic)), "")


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
