"""Planes: the one that is meant is found, or what there is to choose is listed."""

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.files.planes import COLOURS, Choice, Plane, Planes, choose_plane

STAINS = ("GFP", "DAPI", "Cy5")


@pytest.mark.parametrize(
    "planes, choice, expected",
    [
        (Planes(), Choice(), Plane()),
        (Planes(), Choice(channel="1", z="max", page=1), Plane(z="max")),
        (Planes(COLOURS), Choice(), Plane("all")),
        (Planes(COLOURS), Choice(channel="blue"), Plane(2, said="channel 3 of 3, blue")),
        (Planes(STAINS), Choice(), Plane(1, said="channel 2 of 3, DAPI")),
        (Planes(STAINS), None, Plane(1, said="channel 2 of 3, DAPI")),
        (Planes(STAINS), Choice(channel="3"), Plane(2, said="channel 3 of 3, Cy5")),
        (Planes(STAINS), Choice(channel="gfp"), Plane(0, said="channel 1 of 3, GFP")),
        (Planes(("w1 405", "w2 488")), Choice(channel="405"), Plane(0, said="channel 1 of 2, w1 405")),
        (Planes(("", "")), Choice(channel="2"), Plane(1, said="channel 2 of 2")),
        (Planes(("A", "Hoechst 33342")), Choice(), Plane(1, said="channel 2 of 2, Hoechst 33342")),
        (Planes(depth=5), Choice(z=3), Plane(z=2, said="z plane 3 of 5")),
        (Planes(depth=5), Choice(z="max"), Plane(z="max", said="the maximum of 5 z planes")),
        (Planes(pages=4, word="time point"), Choice(page=4), Plane(page=3, said="time point 4 of 4")),
        (Planes(pages=4, unnamed=True), Choice(page=4), Plane(page=3, said="page 4 of 4")),
        (Planes(pages=4, unnamed=True), Choice(z=2), Plane(page=1, said="z plane 2 of 4")),
        (Planes(pages=4, unnamed=True), Choice(z="max"), Plane(page="max", said="the maximum of 4 z planes")),
        (Planes(pages=4, unnamed=True), Choice(channel="2"), Plane(page=1, said="channel 2 of 4")),
        (Planes(("", ""), 3, 4), Choice("2", 1, 3), Plane(1, 0, 2, "page 3 of 4, channel 2 of 2, z plane 1 of 3")),
    ],
)
def test_the_plane_that_is_meant(planes, choice, expected):
    assert choose_plane(planes, choice, "x.tif") == expected


@pytest.mark.parametrize(
    "planes, choice, sentence",
    [
        (Planes(("a", "b")), Choice(), "holds 2 channels (1 a, 2 b): choose with --channel NAME|N"),
        (Planes(("", "")), Choice(), "holds 2 channels: choose with --channel N"),
        (Planes(("DAPI 1", "DAPI 2")), Choice(), "holds 2 channels (1 DAPI 1, 2 DAPI 2): choose with --channel NAME|N"),
        (Planes(depth=5), Choice(), "holds 5 z planes: choose with --z N|max"),
        (Planes(pages=9, word="time point"), Choice(), "holds 9 time points: choose with --page N"),
        (
            Planes(pages=3, unnamed=True),
            Choice(),
            "holds 3 pages: choose with --page N (or say what they are with --z N|max or --channel N)",
        ),
        (
            Planes(pages=["9 x 9", "4 x 4"], word="image"),
            Choice(),
            "holds 2 images (1 9 x 9, 2 4 x 4): choose with --page N",
        ),
        (
            Planes(("a", "b"), depth=5),
            Choice(),
            "holds 2 channels (1 a, 2 b) and 5 z planes: choose with --channel NAME|N and --z N|max",
        ),
        (Planes(depth=5), None, "holds 5 z planes: save the plane with the nuclei as a file of its own"),
        (Planes(STAINS), Choice("Cy3"), "has no channel 'Cy3': it holds 3 channels (1 GFP, 2 DAPI, 3 Cy5)"),
        (Planes(STAINS), Choice("4"), "has no channel '4': it holds 3 channels (1 GFP, 2 DAPI, 3 Cy5)"),
        (
            Planes(("DAPI 1", "DAPI 2")),
            Choice("dapi"),
            "has no channel 'dapi': it holds 2 channels (1 DAPI 1, 2 DAPI 2)",
        ),
        (Planes(), Choice("DAPI"), "has no channel 'DAPI': it holds one plane"),
        (Planes(depth=5), Choice(z=6), "has no z plane 6: it holds 5 z planes"),
        (Planes(depth=5), Choice(page=2), "has no page 2: it holds 5 z planes"),
        (Planes(pages=9, word="time point"), Choice(z=2), "has no z plane 2: it holds 9 time points"),
    ],
)
def test_what_there_is_to_choose_is_listed(planes, choice, sentence):
    with pytest.raises(BadInput) as caught:
        choose_plane(planes, choice, "x.tif")
    assert str(caught.value) == f"x.tif {sentence}"


@pytest.mark.parametrize(
    "name, nuclear",
    [
        ("DAPI", True),
        ("dapi-1", True),
        ("Hoechst", True),
        ("H33342", True),
        ("Nuclei", True),
        ("nuclear stain", True),
        ("DRAQ5", True),
        ("SYTOX Green", True),
        ("DNA", True),
        ("GFP", False),
        ("Nucleolin", False),
        ("mtDNA", False),
        ("brightfield", False),
    ],
)
def test_stains_of_nuclei_are_known_by_name(name, nuclear):
    planes = Planes(("other", name))
    if nuclear:
        assert choose_plane(planes, None, "x").channel == 1
    else:
        with pytest.raises(BadInput):
            choose_plane(planes, None, "x")


def test_many_channels_are_not_all_listed():
    with pytest.raises(BadInput, match=r"holds 40 channels \(1 c0, 2 c1, .*12 c11, \.\.\.\)"):
        choose_plane(Planes([f"c{n}" for n in range(40)]), Choice(), "x")
