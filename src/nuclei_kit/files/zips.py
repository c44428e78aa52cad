"""Zips: files in archives from outside, unpacked within bounds."""

import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from nuclei.settings.config import BadInput
from nuclei_kit.files.formats import HEAD_BYTES, name_format
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
JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}  # what systems leave beside files, in lower case
END_MARK, END_BYTES = b"PK\5\6", 22  # of the record at a zip's end, which its comment follows
LONGEST_COMMENT = 2**16
# What else is found under the name of a zip or a CSV, by its first bytes; the rest is told as an image is.
OTHERS = {
    b"<": "a web page, as Kaggle sends it to whom it does not know",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel, or another file of Office",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"X\n\0\0": "an R data file",
    b"RDX": "an R data file",
    b"SQLite format 3": "an SQLite database",
}


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip.

    Raises:
        BadInput: it is truncated, or something else, or its comment would be taken for the end of a zip.
        PermissionError: to download it again would not help.
    """
    try:
        with open(path, "rb") as file:
            if has_end_in_comment(file):
                raise BadInput(f"{path} has a comment that Python takes for the end of a zip: zip it without a comment")
        return zipfile.ZipFile(path)
    except PermissionError:
        raise
    except BROKEN_ZIP as error:
        with open(path, "rb") as file:
            other = recognise(file.read(HEAD_BYTES))
        mend = "pack it as a zip" if other.endswith("archive") else "download it again"
        what = (
            f"{other}, not a zip: {mend}" if other not in ("", "a zip") else f"truncated or not a zip: {mend} ({error})"
        )
        raise BadInput(f"{path} is {what}") from None


def recognise(start: bytes) -> str:
    """Say what a file is that ought to be a zip or a CSV, by its first bytes; "" where that is not known."""
    text = start.lstrip()  # of a web page
    return next((what for magic, what in OTHERS.items() if text.startswith(magic)), "") or name_format(start)


def is_junk(part: str) -> bool:
    """Tell whether a part of a path is one of those that systems leave beside files."""
    return (part.startswith(".") and part.strip(".") != "") or part.lower() in JUNK


def has_end_in_comment(file: BinaryIO) -> bool:
    """Tell whether a file is a zip whose comment holds the mark that ends a zip, of which zipfile takes the last."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - END_BYTES - LONGEST_COMMENT))
    tail = file.read()
    last = tail.rfind(END_MARK)
    for found in re.finditer(re.escape(END_MARK), tail[: max(last, 0)]):
        start = found.start()
        comment = len(tail) - start - END_BYTES
        if 0 <= comment == int.from_bytes(tail[start + END_BYTES - 2 : start + END_BYTES], "little"):
            return True
    return False


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
