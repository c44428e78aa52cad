"""Zips: files in archives from outside, unpacked within bounds."""

import struct
import zipfile
import zlib

from nuclei.settings.config import BadInput
from nuclei_kit.files.limits import check_bytes

# All that Python's zipfile raises on a zip that is broken, on purpose or not.
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


def unpack(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of one file in a ZipFile; what it unpacks to is bounded, whatever the zip claims.

    Raises:
        BadInput: it has over `most` bytes, or is packed by another method than zip's usual one.
        BROKEN_ZIP: it cannot be unpacked.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{archive.filename}: {name} is packed by an unusual method: zip it again with deflate")
    check_bytes(entry.file_size, most, f"{archive.filename}: {name}")
    with archive.open(name) as file:
        return file.read(entry.file_size + 1)  # the one byte more makes zipfile look at the checksum
