"""TIFF: each way in which microscopes write a picture gives its pixels back, or a sentence that names what it is."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile

from nuclei.settings.config import BadInput
from nuclei_kit.files.decoding import read_picture
from nuclei_kit.files.planes import Choice

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (24, 32), np.uint8)
RGB = RNG.integers(0, 256, (24, 32, 3), np.uint8)
DEEP = RNG.integers(0, 4096, (24, 32), np.uint16)
FIELD = RNG.random((24, 32)).astype(np.float32)
STACK = RNG.integers(0, 4096, (2, 3, 4, 24, 32), np.uint16)  # time points, z planes, channels
ALPHA = np.dstack([RGB, GREY])
BLACK = {"photometric": "minisblack"}
COLOUR = {"photometric": "rgb"}
PLANAR = {"photometric": "rgb", "planarconfig": "separate"}
CONTIG = {"photometric": "minisblack", "planarconfig": "contig"}
LOSSLESS = {"compression": "webp", "compressionargs": {"lossless": True}}


def write(pixels, **settings):
    """Pixels -> the bytes of a TIFF; without metadata unless some are given."""
    file = io.BytesIO()
    if not settings.keys() & {"imagej", "ome", "shaped"}:
        settings.setdefault("metadata", None)
    settings.pop("shaped", None)
    tifffile.imwrite(file, pixels, **settings)
    return file.getvalue()


def write_several(*pages):
    """(pixels, settings) each -> the bytes of one TIFF."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tif:
        for pixels, settings in pages:
            tif.write(pixels, **({"metadata": None} | settings))
    return file.getvalue()


def read(content, choice=None, name="x.tif", **limits):
    return read_picture(content, name, choice=choice, **limits)


def same(content, expected, choice=None):
    pixels = read(content, choice).pixels
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.asarray(expected).dtype


# ---- one picture -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels, settings",
    [
        *(
            (pixels, {**BLACK, "byteorder": order, "bigtiff": big})
            for pixels in (GREY, DEEP, FIELD)
            for order in "<>"
            for big in (False, True)
        ),
        *((DEEP.astype(kind), BLACK) for kind in ("i1", "i2", "i4", "u4", "i8", "u8", "f2", "f8")),
        *((DEEP, {**BLACK, "compression": one}) for one in ("lzw", "zlib", "zstd", "lzma", "packbits", "jpeg2000")),
        *((DEEP, {**BLACK, "compression": one, "predictor": 2}) for one in ("lzw", "zlib", "zstd")),
        (FIELD, {**BLACK, "compression": "zlib", "predictor": 3}),
        (DEEP, {**BLACK, "bitspersample": 12}),
        (DEEP >> 2, {**BLACK, "bitspersample": 10}),
        (DEEP, {**BLACK, "tile": (16, 16)}),
        (DEEP, {**BLACK, "rowsperstrip": 7}),
        (DEEP, {**BLACK, "tile": (16, 16), "compression": "zstd"}),
        *((RGB, {**COLOUR, **more}) for more in ({}, {"tile": (16, 16)}, LOSSLESS, {"compression": "png"})),
        *((RGB.astype(kind), COLOUR) for kind in ("u2", "f4")),
    ],
)
def test_every_depth_order_and_packing(pixels, settings):
    same(write(pixels, **settings), pixels)


@pytest.mark.parametrize("pixels", [RGB, RGB.astype(np.uint16) * 16, RGB.astype(np.float32) / 255])
@pytest.mark.parametrize("packed", [{}, {"rowsperstrip": 8}, {"compression": "lzw"}, {"tile": (16, 16)}])
def test_colours_stored_plane_by_plane(pixels, packed):
    same(write(pixels.transpose(2, 0, 1), **PLANAR, **packed), pixels)


def palette(dtype=np.uint16, step=257):
    return write(GREY, photometric="palette", colormap=(np.arange(256) * step).astype(dtype)[None].repeat(3, 0))


def apply_cmyk(pixels):
    light = 255 - pixels.astype(float)
    return (light[..., :3] * light[..., 3:] / 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    "content, expected",
    [
        (write(ALPHA, **COLOUR, extrasamples=["unassalpha"]), RGB),
        (write(ALPHA, **COLOUR, extrasamples=["unspecified"]), RGB),
        (write(ALPHA.transpose(2, 0, 1), **PLANAR, extrasamples=["assocalpha"]), RGB),
        (write(np.dstack([GREY, GREY // 2]), **CONTIG, extrasamples=["unassalpha"]), GREY),
        (write(255 - GREY, photometric="miniswhite"), GREY),
        (write(65535 - DEEP, photometric="miniswhite"), DEEP),
        (write(-FIELD, photometric="miniswhite"), FIELD),
        (write(GREY > 99, **BLACK), np.where(GREY > 99, 255, 0).astype(np.uint8)),
        (write(GREY <= 99, photometric="miniswhite"), np.where(GREY > 99, 255, 0).astype(np.uint8)),
        (write(GREY >> 6, **BLACK, bitspersample=2), (GREY >> 6) * 85),
        (write(GREY >> 4, **BLACK, bitspersample=4), (GREY >> 4) * 17),
        (palette(), np.repeat(GREY[..., None], 3, axis=2)),
        (palette(step=1), np.repeat(GREY[..., None], 3, axis=2)),
        (write(ALPHA, photometric="separated"), apply_cmyk(ALPHA)),
        (write(GREY[:1], **BLACK), GREY[:1]),
        (write(GREY[:, :1], **BLACK), GREY[:, :1]),
        (write(GREY[:1, :1], **BLACK), GREY[:1, :1]),
    ],
)
def test_pixels_are_as_they_are_shown(content, expected):
    same(content, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("pixels", [GREY, DEEP])
def test_the_orientation_is_not_applied(pixels, orientation):
    content = write(pixels, **BLACK, extratags=[(274, 3, 1, orientation, True)])
    same(content, tifffile.imread(io.BytesIO(content)))


def test_jpeg_in_tiles_keeps_its_colours():
    smooth = cv2.GaussianBlur(RGB, (0, 0), 4)
    for settings in (
        {"photometric": "rgb"},
        {"photometric": "rgb", "subsampling": (1, 1)},
        {"photometric": "minisblack"},
    ):
        pixels = smooth[..., 0] if settings["photometric"] == "minisblack" else smooth
        content = write(pixels, **settings, compression="jpeg", tile=(16, 16))
        np.testing.assert_allclose(read(content).pixels, pixels, atol=30)
        assert abs(read(content).pixels.astype(float).mean((0, 1)) - pixels.mean((0, 1))).max() < 3


# ---- one of many -------------------------------------------------------------------------------

IMAGEJ = write(STACK, imagej=True, metadata={"axes": "TZCYX"})
OME = write(STACK, ome=True, metadata={"axes": "TZCYX", "Channel": {"Name": ["GFP", "RFP", "DAPI", "Cy5"]}})
AXES = [  # the pixels as they are written, their axes, how the planes are called, and STACK's index of each
    (STACK.transpose(2, 0, 1, 3, 4), "CTZYX"),
    (STACK.transpose(1, 2, 0, 3, 4), "ZCTYX"),
    (STACK.transpose(0, 2, 1, 3, 4), "TCZYX"),
    (STACK, "TZCYX"),
]


@pytest.mark.parametrize("t, z, c", [(1, 1, 1), (2, 3, 4), (1, 3, 2)])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("stack, axes", AXES, ids=[axes for _, axes in AXES])
def test_each_plane_of_a_hyperstack_whatever_its_order(stack, axes, compression, t, z, c):
    choice, expected = Choice(str(c), z, t), STACK[t - 1, z - 1, c - 1]
    same(write(stack, ome=True, compression=compression, metadata={"axes": axes}), expected, choice)
    same(write(stack, shaped=True, compression=compression, **BLACK, metadata={"axes": axes}), expected, choice)
    if axes == "TZCYX" and not compression:
        same(IMAGEJ, expected, choice)
        same(write(STACK, shaped=True, **BLACK, metadata={"axes": axes}, truncate=True), expected, choice)


def test_the_maximum_over_z():
    for content in (IMAGEJ, OME):
        same(content, STACK[1, :, 2].max(axis=0), Choice("3", "max", 2))
    pages = write(STACK[0, :, 0], **BLACK)
    same(pages, STACK[0, :, 0].max(axis=0), Choice(z="max"))


def test_a_channel_named_after_a_stain_of_nuclei_is_taken_and_said():
    content = write(STACK[0, 0], ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["GFP", "A", "DAPI", "B"]}})
    picture = read(content)
    np.testing.assert_array_equal(picture.pixels, STACK[0, 0, 2])
    assert picture.facts == "TIFF, 4 x 24 x 32 (CYX), uint16" and picture.chosen == "channel 3 of 4, DAPI"
    labels = write(STACK[0, 0, :2], imagej=True, metadata={"axes": "CYX", "Labels": ["GFP", "Hoechst"]})
    same(labels, STACK[0, 0, 1])
    alone = write(STACK[0, 0, :1], ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI"]}})
    same(alone, STACK[0, 0, 0], Choice("dapi"))


YXZ = np.moveaxis(STACK[0, :, 0], 0, -1)
TWO_IMAGES = write_several((DEEP, BLACK), (DEEP[:9], BLACK))
THREE_IMAGES = write_several((STACK[0, :2, 0], BLACK), (DEEP[:9], BLACK))


@pytest.mark.parametrize(
    "content, words",
    [
        (OME, r"2 time points and 3 z planes: choose with --page N and --z N\|max"),
        (IMAGEJ, r"2 time points and 4 channels and 3 z planes: choose"),
        (write(STACK[0, :, 0], **BLACK), r"3 pages: choose with --page N \(or say what they are"),
        (write(STACK[0, :, 0], shaped=True, **BLACK), "3 pages"),
        (write(np.moveaxis(STACK[0, 0], 0, -1), **CONTIG), "4 channels: choose with --channel N"),
        (write(STACK[0, 0], **BLACK, planarconfig="separate"), "4 channels: choose with --channel N"),
        (write(YXZ, shaped=True, **CONTIG, metadata={"axes": "YXZ"}), "3 z planes"),
        (write(STACK[:, 0, 0], shaped=True, **BLACK, metadata={"axes": "RYX"}), "2 tiles"),
        (TWO_IMAGES, r"2 images \(1 24 x 32 \(YX\), uint16, 2 9 x 32 \(YX\), uint16\)"),
    ],
)
def test_where_several_can_be_meant_they_are_listed(content, words):
    with pytest.raises(BadInput, match=rf"^x\.tif holds .*{words}"):
        read(content, Choice())


@pytest.mark.parametrize(
    "content, choice, expected",
    [
        (write(np.moveaxis(STACK[0, 0], 0, -1), **CONTIG), Choice("2"), STACK[0, 0, 1]),
        (write(STACK[0, 0], **BLACK, planarconfig="separate"), Choice("2"), STACK[0, 0, 1]),
        (write(STACK[0, 0], **BLACK), Choice("4"), STACK[0, 0, 3]),
        (write(STACK[0, 0], **BLACK), Choice(page=4), STACK[0, 0, 3]),
        (write(STACK[0, 0], **BLACK), Choice(z=4), STACK[0, 0, 3]),
        (write(YXZ, shaped=True, **BLACK, metadata={"axes": "YXZ"}), Choice(z=2), STACK[0, 1, 0]),
        (TWO_IMAGES, Choice(page=2), DEEP[:9]),
        (THREE_IMAGES, Choice(page=2), STACK[0, 1, 0]),
        (THREE_IMAGES, Choice(page=3), DEEP[:9]),
        (write(RGB, **COLOUR), Choice("blue"), RGB[..., 2]),
        (write(RGB.transpose(2, 0, 1), **PLANAR), Choice("2"), RGB[..., 1]),
        (palette(), Choice("red"), GREY),
        (write(np.stack([RGB, 255 - RGB]), imagej=True, metadata={"axes": "ZYXS"}), Choice(z=2), 255 - RGB),
        (write(np.stack([RGB, 255 - RGB]), ome=True, metadata={"axes": "CYXS"}, **COLOUR), Choice("2"), 255 - RGB),
        (write(STACK[0, :, 0], **BLACK, volumetric=True, tile=(16, 16, 16)), Choice(z=3), STACK[0, 2, 0]),
    ],
)
def test_what_is_chosen_is_read(content, choice, expected):
    same(content, expected, choice)


def test_of_a_pyramid_the_base_is_read():
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as tif:
        tif.write(RGB, subifds=2, photometric="rgb", tile=(16, 16))
        for step in (2, 4):
            tif.write(RGB[::step, ::step], subfiletype=1, photometric="rgb", tile=(16, 16))
    same(file.getvalue(), RGB)
    reduced = {**COLOUR, "subfiletype": 1}
    same(write_several((RGB, COLOUR), (RGB[::2, ::2], reduced), (RGB[:5, :7], reduced)), RGB)
    same(write_several((RGB[::2, ::2], reduced), (RGB, COLOUR)), RGB)  # a preview in front


def test_of_a_slide_the_scan_is_read():
    scan = {**COLOUR, "tile": (16, 16), "description": "Aperio Image Library v12\n24x32|MPP = 0.25"}
    content = write_several((RGB, scan), (RGB[::4, ::4], COLOUR), (RGB[:9], {**COLOUR, "subfiletype": 1}))
    same(content, RGB)
    assert read(content).facts.endswith("0.25 um a pixel")


def sized(x, y, unit):
    return write(DEEP, ome=True, metadata={"PhysicalSizeX": x, "PhysicalSizeY": y, "PhysicalSizeXUnit": unit})


@pytest.mark.parametrize(
    "content, size",
    [
        (sized(0.65, 0.65, "\u00b5m"), "0.65"),
        (sized(650.0, 1.0, "nm"), "0.65 x 1"),
        (write(DEEP, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "micron"}), "0.5"),
        (write(DEEP, imagej=True, resolution=(4.0, 2.0), metadata={"unit": "\\u00B5m"}), "0.25 x 0.5"),
        (write(DEEP, **BLACK, resolution=(20000, 20000), resolutionunit="CENTIMETER"), "0.5"),
        (write(DEEP, **BLACK, resolution=(300, 300), resolutionunit="INCH"), ""),
        (write(DEEP, **BLACK), ""),
    ],
)
def test_the_size_of_a_pixel_is_said_where_it_is_stated(content, size):
    said = f", {size} um a pixel" if size else ""
    picture = read(content)
    assert picture.facts == f"TIFF, 24 x 32 (YX), uint16{said}"
    x, _, y = size.partition(" x ")
    assert picture.pixel_size == ((pytest.approx(float(x)), pytest.approx(float(y or x))) if size else None)


# ---- what is refused ---------------------------------------------------------------------------


def retag(content, code, value):
    """Give a tag of a little-endian classic TIFF's first page, of one SHORT or LONG, another value."""
    broken = bytearray(content)
    (start,) = struct.unpack_from("<I", broken, 4)
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", broken, start)[0], 12):
        if struct.unpack_from("<H", broken, place)[0] == code:
            struct.pack_into("<I", broken, place + 8, value)
            return bytes(broken)
    raise LookupError(code)


def lacking(content, strip):
    """The first page, one of whose strips was never written."""
    broken = bytearray(content)
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        for code in (273, 279):  # where the strips lie, and their lengths
            tag = tif.pages.first.tags[code]
            size = {3: 2, 4: 4}[int(tag.dtype)]
            broken[tag.valueoffset + size * strip : tag.valueoffset + size * (strip + 1)] = bytes(size)
    return bytes(broken)


def described(old="", new=""):
    """The stack with OME-XML in which one thing is said otherwise."""
    with tifffile.TiffFile(io.BytesIO(OME)) as tif:
        xml = tif.ome_metadata
    assert old in xml
    return write(STACK, **BLACK, description=xml.replace(old, new))


def chained(offset):
    """Three pages, and the last of them says that another lies at `offset`."""
    content = bytearray(write(STACK[0, :, 0], **BLACK))
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        place = tif.pages.next_page_offset
    struct.pack_into("<I", content, place, offset)
    return bytes(content)


def bomb(compression, mark, form, place):
    """A tile that states 65,000 x 65,000 pixels."""
    content = bytearray(write(RGB, **COLOUR, compression=compression, tile=(16, 16)))
    at = content.index(mark)
    for where in place:
        struct.pack_into(form, content, at + where, 60000, 60000)
    return bytes(content)


@pytest.mark.parametrize(
    "content, words",
    [
        (write(DEEP.astype(np.complex64), **BLACK), "numbers of a kind that is not read here .complex64"),
        (write(RGB, photometric="cielab"), "colours as CIELAB"),
        (write(GREY, photometric="cfa"), "colours as CFA"),
        (retag(write(GREY, **BLACK, compression="zlib"), 259, 34676), "packed by .*SGILOG"),
        (retag(write(GREY, **BLACK, compression="zlib"), 259, 12345), "packed by code 12345"),
        (retag(write(GREY, **BLACK), 262, 3), "colours as PALETTE"),
        (write(DEEP, **BLACK)[:-900], "cut off"),
        (write(DEEP, **BLACK, compression="zlib")[:-90], "cut off"),
        (write(DEEP, **BLACK, compression="lzw", rowsperstrip=3)[:-90], "cut off"),
        (write(DEEP, **BLACK)[:60], "broken or cut off"),
        (write(RGB, **COLOUR, compression="jpeg", tile=(16, 16))[:-90], "cut off"),
        (retag(write(DEEP, **BLACK), 279, 0), "lacks pixels of that plane"),
        (lacking(write(DEEP, **BLACK, rowsperstrip=6), 1), "lacks pixels of that plane"),
        (retag(retag(write(DEEP, **BLACK, tile=(16, 16)), 322, 65536), 323, 65536), "bytes in a page, over the limit"),
        (described('SizeT="2"', 'SizeT="1000000000"'), "promises over .* planes"),
        (described('PlaneCount="24"', 'PlaneCount="1000000000"'), "promises over .* planes"),
        (described('SizeT="2"', 'SizeT="3"'), "lacks that plane"),
        (chained(8), "pages run in a circle"),
        (bomb("jpeg", b"\xff\xc0", ">HH", (5,)), "states a tile of 60000 x 60000"),
        (bomb("jpeg2000", b"\xff\x4f", ">II", (8, 24)), "states a tile of 60000 x 60000"),
    ],
)
def test_what_cannot_be_read_right_is_refused(content, words):
    with pytest.raises(BadInput, match=rf"^x\.tif .*{words}"):
        read(content, Choice("1", 1, 3 if b"OME" in content else None))


def test_tiles_that_a_slide_leaves_out_are_black():
    tiles = iter([np.full((16, 16), 9, np.uint8), None, np.full((16, 16), 7, np.uint8), None])
    file = io.BytesIO()
    tifffile.imwrite(file, tiles, shape=(32, 32), dtype=np.uint8, tile=(16, 16), compression="zlib", metadata=None)
    pixels = read(file.getvalue()).pixels
    assert pixels[:16, :16].min() == 9 and pixels[16:, :16].max() == 7 and not pixels[:, 16:].any()


def test_a_page_that_lies_past_the_end_is_said():
    picture = read(chained(10**8), Choice(page=3))
    np.testing.assert_array_equal(picture.pixels, STACK[0, 2, 0])
    assert picture.facts.endswith("cut off after its last page")


def test_a_file_of_a_set_is_read_alone(tmp_path):
    """OME-XML names the other files of a set: they may be anywhere, and are not opened."""
    elsewhere = '<TiffData IFD="0" PlaneCount="24"><UUID FileName="b.ome.tif">urn:uuid:1</UUID></TiffData>'
    (tmp_path / "a.ome.tif").write_bytes(described('<TiffData IFD="0" PlaneCount="24"/>', elsewhere))
    (tmp_path / "b.ome.tif").write_bytes(OME)
    with pytest.raises(BadInput, match=r"a\.ome\.tif holds 24 pages"):
        read_picture(tmp_path / "a.ome.tif", "a.ome.tif", choice=Choice())


def test_odd_metadata_cost_no_image():
    for old, new in (('SizeC="4"', 'SizeC="x"'), ("<Channel", "<Chanel"), ("</OME>", "<OME>"), ("<TiffData", "<Data")):
        content = described(old, new) if old != "<Channel" else described("Channel", "Chanel")
        np.testing.assert_array_equal(read(content, Choice("1", 1, 1)).pixels, STACK[0, 0, 0])
    odd = write(DEEP, ome=True, metadata={"PhysicalSizeX": 0.65}).replace(b"0.65", b"zero")
    np.testing.assert_array_equal(read(odd).pixels, DEEP)
    odd = write(DEEP, imagej=True, resolution=(0.0, 0.0), metadata={"unit": "furlong"})
    np.testing.assert_array_equal(read(odd).pixels, DEEP)


def test_olympus_overviews_are_not_taken_for_the_image():
    with pytest.raises(BadInput, match=r"x\.vsi is Olympus's VSI"):
        read(write(RGB, **COLOUR), name="x.vsi")
