"""What comes from outside with bad intent, and disks that fail: bounded memory, one sentence, nothing elsewhere."""

import contextlib
import importlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from drawn_files import write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.competition.submission import encode_labels, make_rows, write_submission
from nuclei.settings.config import BadInput
from nuclei_kit.command.cli import main
from nuclei_kit.command.terminal import escape_control
from nuclei_kit.experiments.scoring import read_solution
from nuclei_kit.files import info, reading, sources, tables
from nuclei_kit.files.decoding import decode_image
from nuclei_kit.files.folders import in_use
from nuclei_kit.files.limits import MAX_PIXELS
from nuclei_kit.files.planes import Choice
from nuclei_kit.files.reading import read_images
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.files.tables import read_table
from nuclei_kit.own_images.journal import Journal

GOOD = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))[1].tobytes()
TIFF = cv2.imencode(".tiff", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))[1].tobytes()
STACK = np.random.default_rng(0).integers(0, 4096, (2, 20, 30), np.uint16)
HEAD = "ImageId,EncodedPixels\n"
SOURCES = str(Path(reading.__file__).parents[2])


def png_header(width, height):
    """A PNG that promises more than it holds."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\0IEND\xaeB`\x82"


def tiff_header(order, big, width, height):
    """The first directory of a TIFF, of either kind and byte order, with the two sizes alone."""
    if big:
        start = struct.pack(order + "HHHQQ", 43, 8, 0, 16, 2)
        entries = [struct.pack(order + "HHQQ", tag, 16, 1, size) for tag, size in ((256, width), (257, height))]
    else:
        start = struct.pack(order + "HIH", 42, 8, 2)
        entries = [struct.pack(order + "HHII", tag, 4, 1, size) for tag, size in ((256, width), (257, height))]
    return {"<": b"II", ">": b"MM"}[order] + start + b"".join(entries) + bytes(8)


def write_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# ---- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        png_header(100_000, 100_000),
        png_header(2**31 - 1, 2**31 - 1),
        png_header(1, MAX_PIXELS + 1),
        *(tiff_header(order, big, 100_000, 100_000) for order in "<>" for big in (False, True)),
    ],
)
def test_an_absurd_header_is_refused_before_memory_is_taken(content):
    with pytest.raises(BadInput, match=r"x\.png states \d+ x \d+ pixels, over the limit of 67,108,864"):
        decode_image(content, "x.png")


def test_a_mask_with_an_absurd_header_is_refused(tmp_path):
    path = write_folder(tmp_path / "set", {"a/images/a.png": GOOD, "a/masks/1.png": png_header(100_000, 100_000)})
    with pytest.raises(BadInput, match=r"1\.png states 100000 x 100000"):
        read_images(path)


def tiff(pixels, **settings):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **settings)
    return file.getvalue()


WHOLE = [
    GOOD,
    TIFF,
    *(cv2.imencode(ending, np.zeros((20, 30, 3), np.uint8))[1].tobytes() for ending in (".jpg", ".bmp", ".webp")),
    tiff(STACK, ome=True, compression="zlib", metadata={"axes": "ZYX"}),
    tiff(STACK, imagej=True, metadata={"axes": "CYX"}),
    tiff(STACK[0], photometric="minisblack", tile=(16, 16), compression="lzw", bigtiff=True, byteorder=">"),
    tiff(STACK.astype(np.uint8)[0], photometric="minisblack", compression="jpeg", tile=(16, 16)),
]


@settings(max_examples=300)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))), st.integers(0, 99))
def test_mutated_images_are_decoded_or_refused(content, changes, cut):
    broken = bytearray(content)
    for place, value in changes:
        broken[place % len(broken)] = value
    with contextlib.suppress(BadInput):
        image = decode_image(bytes(broken[: len(broken) - cut]), "x", choice=Choice(channel="1", z="max"))
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size


# ---- zips and folders --------------------------------------------------------------------------


def test_what_a_zip_unpacks_to_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_PIXELS", 1000)
    path = write_zip(tmp_path / "set.zip", {"a/images/a.png": bytes(10**6), "b/images/b.png": GOOD})
    assert "a/images/a.png holds 1,000,000 bytes, over the limit of 8,000" in read_images(path).unreadable["a"]


def test_a_zip_that_claims_less_than_it_unpacks_to_is_broken(tmp_path):
    path = write_zip(tmp_path / "set.zip", {"a/images/a.png": bytes(10**6), "b/images/b.png": GOOD})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 10**6), struct.pack("<I", 100)))
    read = read_images(path)
    assert read.ids == ["b"] and "a cannot be read" in read.unreadable["a"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_a_bound_are_refused(tmp_path, method):
    read = read_images(write_zip(tmp_path / "set.zip", {"a/images/a.png": GOOD}, method))
    assert "packed by an unusual method" in read.unreadable["a"]


def test_names_that_climb_out_of_a_zip_write_nothing(tmp_path):
    files = {"../../evil/images/x.png": GOOD, f"{tmp_path}/abs/images/y.png": GOOD, "c/images/c.png": GOOD}
    before = sorted(tmp_path.parent.rglob("*"))
    (tmp_path / "in").mkdir()
    read = read_images(write_zip(tmp_path / "in" / "set.zip", files), tmp_path / "cache")
    assert len(read.ids) == 3
    new = set(tmp_path.parent.rglob("*")) - set(before)
    assert all(path.is_relative_to(tmp_path / "in") or path.is_relative_to(tmp_path / "cache") for path in new)


def test_links_lead_to_no_other_file_and_no_endless_one(tmp_path):
    folder = write_folder(tmp_path / "set", {"b/images/b.png": GOOD})
    for image_id, target in (("a", "/etc/passwd"), ("c", "/dev/zero"), ("d", "gone")):
        (folder / image_id / "images").mkdir(parents=True)
        (folder / image_id / "images" / "x.png").symlink_to(target)
    (folder / "loop").symlink_to(folder)
    (folder / "e" / "images").mkdir(parents=True)
    os.mkfifo(folder / "e" / "images" / "e.png")
    read = read_images(folder)
    assert read.ids == ["b"] and "root:" not in read.unreadable["a"]
    whys = {
        "a": "is not a PNG",
        "c": "is not a file",
        "d": "is a link to gone, which is not there",
        "e": "is not a file",
    }
    assert all(why in read.unreadable[image_id] for image_id, why in whys.items())
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        entry = zipfile.ZipInfo("a/images/a.png")
        entry.external_attr = 0o120777 << 16  # a symbolic link
        archive.writestr(entry, "/etc/passwd")
    assert "a/images/a.png is a link" in read_images(tmp_path / "set.zip").unreadable["a"]


def test_an_image_set_is_bounded_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_SET_PIXELS", 1000)
    with pytest.raises(BadInput, match=r"set holds over 1,000 pixels, too many at once"):
        read_images(write_folder(tmp_path / "set", {f"{i}/images/x.png": GOOD for i in range(3)}))


def test_thousands_of_empty_files_are_unreadable_each_by_itself(tmp_path):
    read = read_images(
        write_zip(tmp_path / "set.zip", {f"{i}/images/x.png": b"" for i in range(3000)}), tmp_path / "cache"
    )
    assert len(read.unreadable) == 3000 and not read.ids


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1), st.integers(0, 99))
def test_mutated_zips_are_read_or_refused(tmp_path_factory, changes, cut):
    path = tmp_path_factory.getbasetemp() / "mutated.zip"
    broken = bytearray(write_zip(path, {"a/images/a.png": GOOD[:500], "b/images/b.png": GOOD}).read_bytes())
    for place, value in changes:
        broken[place % len(broken)] = value
    path.write_bytes(broken[: len(broken) - cut])
    for read in (read_images, lambda path: read_table(path, [])):
        with contextlib.suppress(BadInput):
            read(path)


# ---- names -------------------------------------------------------------------------------------

ODD_NAMES = (
    "a b",
    "n\u00fccl\u00e9i",
    "\u7d30\u80de",
    "it's",
    "a,b",
    'q"q',
    "=cmd()",
    "<script>",
    "-rf",
    "$(id)",
    "`id`",
    "%s{}",
)


@pytest.mark.parametrize("packed", [True, False])
def test_odd_names_come_through_as_they_are(tmp_path, packed):
    files = {f"{name}/images/x.png": GOOD for name in ODD_NAMES}
    read = read_images(write_zip(tmp_path / "set.zip", files) if packed else write_folder(tmp_path / "set", files))
    assert set(read.ids) == set(ODD_NAMES)
    write_submission(tmp_path / "s.csv", [(image_id, "1 600") for image_id in read.ids])
    assert list(check_submission(tmp_path / "s.csv", dict.fromkeys(read.ids, (20, 30)))) == read.ids


@pytest.mark.parametrize("name", ["a\x1b[31mred", "a\nb", "a\rb", "\u202egnp", "a\x07", os.fsdecode(b"bad\xff")])
def test_names_that_cannot_be_printed_are_refused_in_print(tmp_path, name):
    with pytest.raises(BadInput, match="a name that cannot be printed") as caught:
        read_images(write_folder(tmp_path / "set", {f"{name}/images/x.png": GOOD}), tmp_path / "cache")
    assert str(caught.value).isprintable() and str(caught.value).isascii()


def test_a_terminal_gets_no_control_characters(tmp_path, capsys):
    (tmp_path / "\x1b[2Jx\udcff\x07").write_bytes(b"")
    assert main(["info", str(tmp_path)]) == 2
    assert r"it holds \x1b[2Jx\udcff\x07" in capsys.readouterr().err
    assert escape_control("n\u00fc\x1b\u202e\n\t\udc80") == "n\u00fc\\x1b\\u202e\n\t\\udc80"


# ---- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["1_0 2", "+1 2", "\u0661 2", "1\u00a02", "1\t2", " 1 2", "1  2", "1 2 ", '"1\n2"', "1 \0 2"]
)
def test_run_lists_that_only_python_reads_are_refused(tmp_path, words):
    (tmp_path / "s.csv").write_text(HEAD + f"a,{words}\n")
    with pytest.raises(BadInput, match=r"s\.csv, row 2 \(a\): run list"):
        check_submission(tmp_path / "s.csv", {"a": (90, 90)})


def test_fifty_thousand_rows_of_one_image_take_seconds(tmp_path):
    (tmp_path / "s.csv").write_text(HEAD + "".join(f"a,{2 * i + 1} 1\n" for i in range(50_000)))
    assert len(check_submission(tmp_path / "s.csv", {"a": None})["a"]) == 50_000


def test_a_table_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 1000)
    (tmp_path / "s.csv").write_text(HEAD + "a,\n" * 400)
    write_zip(tmp_path / "s.zip", {"s.csv": bytes(10**6)})
    for name in ("s.csv", "s.zip"):
        with pytest.raises(BadInput, match="bytes, over the limit of 1,000"):
            read_table(tmp_path / name, [])
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10**6)
    monkeypatch.setattr(tables, "MAX_TABLE_ROWS", 399)
    with pytest.raises(BadInput, match="over 399 rows"):
        read_table(tmp_path / "s.csv", [])


def test_tables_that_can_be_read_in_two_ways_are_refused(tmp_path):
    write_zip(tmp_path / "two.zip", {"a.csv": HEAD, "b.csv": HEAD})
    (tmp_path / "twice.csv").write_text("ImageId,EncodedPixels,EncodedPixels\n")
    with pytest.raises(BadInput, match="it holds 2 files"):
        read_table(tmp_path / "two.zip", [])
    with pytest.raises(BadInput, match="two columns of one name"):
        read_table(tmp_path / "twice.csv", [])


@pytest.mark.parametrize("height, width", [(10**9, 10**9), (10**5, 10**4)])
def test_a_solution_cannot_ask_for_any_memory(tmp_path, height, width):
    (tmp_path / "s.csv").write_text(f"ImageId,EncodedPixels,Height,Width\na,1 2,{height},{width}\n")
    with pytest.raises(BadInput, match="more than 67,108,864 pixels an image"):
        read_solution(tmp_path / "s.csv")


printable = st.text(st.characters(blacklist_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=8)


@settings(max_examples=60)
@given(st.dictionaries(printable, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32)), min_size=1))
def test_what_the_writer_writes_the_check_takes(tmp_path_factory, images):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    drawn = {i: np.random.default_rng(seed).integers(0, 4, (h, w), np.int32) for i, (h, w, seed) in images.items()}
    write_submission(path, [row for i, labels in drawn.items() for row in make_rows(i, labels)])
    rles = check_submission(path, {i: labels.shape for i, labels in drawn.items()})
    assert rles == {i: encode_labels(labels) or [""] for i, labels in drawn.items()}


def test_a_run_list_of_any_length_is_written_and_checked(tmp_path):
    labels = np.indices((300, 300)).sum(axis=0).astype(np.int32) % 2
    write_submission(tmp_path / "s.csv", make_rows("a", labels))
    assert len(check_submission(tmp_path / "s.csv", {"a": labels.shape})["a"][0]) > 131_072


# ---- the cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images.npy", "index.json"])
def test_a_bit_that_flipped_in_the_cache_is_noticed(tmp_path, name):
    path, cache = write_folder(tmp_path / "set", {"a/images/a.png": GOOD, "b/images/b.png": GOOD}), tmp_path / "cache"
    whole = read_images(path, cache)
    (file,) = cache.rglob(name)
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.unlink()  # a mapped file is another one
    file.write_bytes(content)
    again = read_images(path, cache)
    assert again.ids == whole.ids and all(map(np.array_equal, again.images, whole.images))


def test_what_a_killed_run_left_in_the_cache_goes_after_a_day(tmp_path):
    old, new = tmp_path / "cache" / "old.tmp", tmp_path / "cache" / "new.tmp"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    read_images(write_folder(tmp_path / "set", {"a/images/a.png": GOOD}), tmp_path / "cache")
    assert not old.exists() and new.exists()


# ---- two runs at once --------------------------------------------------------------------------


def test_a_folder_serves_one_run_at_a_time(tmp_path):
    hold = "import sys, time, pathlib; from nuclei_kit.files.folders import in_use\n"
    hold += "with in_use(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    out = tmp_path / "fresh" / "out"
    environ = os.environ | {"PYTHONPATH": SOURCES}
    holder = subprocess.Popen([sys.executable, "-c", hold, out], stdout=subprocess.PIPE, env=environ)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(BadInput, match=r"out is in use by another run"), in_use(out):
        pass
    holder.kill()  # without notice: the lock goes with the process
    holder.communicate()
    with in_use(out):
        assert not list(out.iterdir())


def test_two_runs_may_build_one_cache_at_once(tmp_path):
    """Round after round from no cache, two processes wait for each other and then read the same set."""
    code = """if True:
        import sys, time, zlib
        from pathlib import Path
        from nuclei_kit.files.reading import read_images
        here, mine, other = Path(sys.argv[1]), *sys.argv[2:]
        for n in range(15):
            (here / f"{n}.{mine}").touch()
            while not (here / f"{n}.{other}").exists():
                time.sleep(0.0005)
            for read in (read_images(here / "set", here / f"cache{n}"), read_images(here / "set")):
                print(zlib.crc32(b"".join(one.tobytes() for one in [*read.images, *read.labels])))
    """
    mask = cv2.imencode(".png", np.pad(np.full((9, 9), 255, np.uint8), ((0, 11), (0, 21))))[1].tobytes()
    write_folder(tmp_path / "set", {f"{i}/images/x.png": GOOD for i in range(9)})
    write_folder(tmp_path / "set", {f"{i}/masks/x.png": mask for i in range(9)})
    environ = os.environ | {"PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", code, tmp_path]
    both = [
        subprocess.Popen([*command, *names], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for names in (("a", "b"), ("b", "a"))
    ]
    for run in both:
        said, complaints = run.communicate()
        assert run.returncode == 0 and not complaints, complaints
        assert len(said.split()) == 30 and len(set(said.split())) == 1
    caches = [sorted(path.name for path in (tmp_path / f"cache{n}").iterdir()) for n in range(15)]
    assert all(names == caches[0] for names in caches) and len(caches[0]) == 1  # and nothing temporary is left


# ---- other users -------------------------------------------------------------------------------


@contextlib.contextmanager
def as_another_user():
    """As nobody, where root runs the tests: to root everything is permitted. Anybody else is kept out by the modes."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def foreign():
    """A folder that may be looked into, not written to, with two files that may not be read."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lies where nobody else may look
        path = Path(folder)
        for name in ("stage1_test.zip", "submission.csv"):
            (path / name).write_text("secret")
            (path / name).chmod(0o000)
        path.chmod(0o555)
        yield path
        path.chmod(0o755)


@pytest.mark.parametrize(
    "command, named",
    [
        ("sample {}/new", "new"),
        ("predict --weights {} --out {}/new x.png", "new"),
        ("info {}", "stage1_test.zip"),
        ("check {}", "submission.csv"),
    ],
)
def test_what_is_not_permitted_is_a_sentence(foreign, capsys, command, named):
    arguments = command.replace("{}", str(foreign)).split()
    importlib.import_module("nuclei_kit.sample.sample")  # that other user may not read the interpreter's own files
    importlib.import_module("nuclei_kit.files.info")
    before = sorted(foreign.iterdir())
    with as_another_user():
        assert main(arguments) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"{foreign / named}" in sentence and "Permission denied" in sentence and "Errno" not in sentence
    assert sorted(foreign.iterdir()) == before


def test_a_cache_that_is_another_users_costs_speed_alone(foreign, caplog):
    foreign.chmod(0o755)
    (foreign / "home").mkdir(mode=0o500)
    path = write_folder(foreign / "set", {"a/images/a.png": GOOD})
    expected = read_images(path).images[0]
    with as_another_user():
        assert np.array_equal(read_images(path, foreign / "home" / "cache").images[0], expected)
    assert "cannot be written" in caplog.text


# ---- disk --------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path):
    """A disk of 1 MB of its own -> its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder]).returncode
    ):
        pytest.skip("a disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_the_old_file_and_a_sentence(mounted, monkeypatch, capsys):
    path = mounted / "submission.csv"
    write_submission(path, [("old", "")])
    before = path.read_bytes()

    def fill(folder):
        write_submission(path, [("new", "1 1 " * 10**6)])

    monkeypatch.setattr(info, "find_sets", fill)
    assert main(["info", "x"]) == 2
    assert f"{path}: No space left on device" in capsys.readouterr().err
    assert path.read_bytes() == before and os.listdir(mounted) == ["submission.csv"]


def test_a_cache_on_a_full_disk_costs_speed_alone(mounted, tmp_path, caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    path = write_folder(tmp_path / "set", {"a/images/a.png": cv2.imencode(".png", pixels)[1].tobytes()})
    read = read_images(path, mounted / "cache")
    assert np.array_equal(read.images[0], pixels[..., ::-1]) and "cannot be written" in caplog.text
    assert not list((mounted / "cache").iterdir())


def test_a_journal_on_a_full_disk_keeps_what_it_has(mounted):
    path = mounted / "x.journal"
    journal = Journal(path)
    journal.add("a", 1)
    with pytest.raises(OSError, match="No space left") as caught:
        journal.add("b", "x" * 2**21)
    assert caught.value.filename == str(path)
    assert Journal(path).done == {"a": 1}
    Journal(path).add("c", 2)
    assert Journal(path).done == {"a": 1, "c": 2}


def test_a_read_only_folder_is_a_sentence(mounted, monkeypatch, capsys):
    path = mounted / "submission.csv"
    path.write_text("old")
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)

    def fill(folder):
        write_submission(path, [("new", "")])

    monkeypatch.setattr(info, "find_sets", fill)
    assert main(["info", "x"]) == 2
    assert f"{path}: Read-only file system" in capsys.readouterr().err and path.read_text() == "old"
