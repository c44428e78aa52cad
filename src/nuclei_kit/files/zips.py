"""Zips: files in archives from outside, unpacked within bounds."""

import struct
import zipfile
import zlib

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


def unpack(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Unpack one file of a ZipFile -> its bytes, of which there are `most` at most, whatever the zip claims.

    Raises:
        BadInput: it has more bytes, or is packed by another method than zip's usual ones.
        BROKEN_ZIP: it cannot be unpacked.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{archive.filename}: {name} is packed by an unusual method: zip it again with deflate")
    check_bytes(entry.file_size, most, f"{archive.filename}: {name}")
    with archive.open(name) as file:
        return file.read(entry.file_size + 1)  # one byte more makes zipfile verify the checksum
