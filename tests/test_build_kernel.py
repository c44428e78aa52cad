"""The builder keeps its guarantees: drawn packages for the laws and the errors, the real one for what ships."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import build_kernel
from build_kernel import BuildError, build, main, read_chapters, top_block

REPOSITORY = Path(build_kernel.__file__).parent
SCIENCE = REPOSITORY / "src/nuclei"
METADATA = (REPOSITORY / "kernel/kernel-metadata.json").read_text()

SHAPES = '''
    """Shapes: what the areas are taken of.

    A second paragraph stays with the first.
    """

    # A comment above the imports.

    import math
    from dataclasses import dataclass

    import numpy as np

    HALF = 0.50  # written so on purpose


    @dataclass(frozen=True)
    class Disc:
        """A disc."""

        radius: float  # cm

        def area(self):
            return math.pi * self.radius**2


    def describe(shape):
        # Its strings look like code, and its line ends in blanks.
        return f"""
    import nuclei.geometry.shapes   
    from nuclei.geometry.shapes import *
    {shape.area():.{2}f} \\t\\x41"""


    def zeros():
        from scipy import ndimage  # a local import of a heavy library

        return ndimage.label(np.zeros(3))


    if __name__ == "__main__":
        print("the guard of shapes fired")
'''
ROUND = '''
    """Round: the chapter between."""

    import math
    from dataclasses import field, replace

    from nuclei.geometry.shapes import HALF, Disc


    def halved(disc):
        return replace(disc, radius=disc.radius * math.sqrt(HALF))


    def fail():
        raise RuntimeError("on purpose")


    assert field
    assert Disc
'''
START = '''
    """Start: prints an area."""

    import inspect
    import sys

    from nuclei.geometry.round import fail, halved
    from nuclei.geometry.shapes import Disc, describe


    def run():
        print(describe(halved(Disc(2.0))), globals().get("SOURCE_HASH"))
        if "fail" in sys.argv:
            fail()
        print(inspect.getsource(halved))


    if __name__ == "__main__":
        run()
'''
CHAPTERS = {"geometry": ("unreached", "shapes", "round", "later"), "run": ("start", "last")}
PACKAGE = {
    "__init__": '"""A drawn package."""',
    "geometry/__init__": '"""Geometry: what can be measured."""',
    "geometry/shapes": SHAPES,
    "geometry/round": ROUND,
    "geometry/later": '"""Later."""\n\nSIDE = 2\n',
    "geometry/unreached": '"""Unreached."""\n\nimport leftpad\n',
    "geometry/stray": '"""Stray: has no place in CHAPTERS."""\n\nSIDE = 1\n',
    "run/__init__": '"""The run: prints one area."""',
    "run/start": START,
}


@pytest.fixture
def plant(monkeypatch):
    """Plant a repository with the drawn package, `modules` in place of or beside its own -> its root."""
    for name, value in {"CHAPTERS": CHAPTERS, "ENTRY": "run.start", "NOTEBOOK": "run.last"}.items():
        monkeypatch.setattr(build_kernel, name, value)

    def plant(root, modules=None):
        for name, text in (PACKAGE | (modules or {})).items():
            path = root / f"src/nuclei/{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).lstrip("\n"))
        (root / "kernel").mkdir()
        (root / "kernel/kernel-metadata.json").write_text(METADATA)
        return root

    return plant


def run_alone(folder, text, *arguments):
    """Run a kernel as Kaggle does: by itself, in a folder that it cannot write, out of reach of any other module."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(text)
    folder.chmod(0o555)
    command = [sys.executable, "-I", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]})
    folder.chmod(0o755)
    return done


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The kernel of the real package, and its chapters."""
    return build(REPOSITORY), read_chapters(REPOSITORY)


def with_ending(text):
    """A module of the drawn package, with more at its end."""
    return {"geometry/round": textwrap.dedent(ROUND) + text}


def banners(text):
    """{folder.module: line of its banner}, lines from 1."""
    found = re.finditer(r"^# ==== \d+\. src/nuclei/(\w+)/(\w+)\.py =+$", text, re.MULTILINE)
    return {f"{match[1]}.{match[2]}": text[: match.start()].count("\n") + 1 for match in found}


# ---- what it gives -----------------------------------------------------------------------------


def test_the_same_bytes_wherever_and_whenever_it_is_built(tmp_path):
    kernels = []
    for name, seed in (("here", "1"), ("in another place", "2")):
        root = tmp_path / name
        shutil.copytree(REPOSITORY / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "build_kernel.py", root)
        (root / "kernel").mkdir()
        (root / "kernel/kernel-metadata.json").write_text(METADATA)
        if seed == "2":
            for path in root.rglob("*.py"):  # a checkout on Windows, long ago
                path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
                os.utime(path, (0, 0))
        command = [sys.executable, "-I", "-S", str(root / "build_kernel.py")]
        subprocess.run(command, check=True, cwd=tmp_path, env={"PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"})
        kernels.append((root / "kernel/nuclei_kernel.py").read_bytes())
    assert kernels[0] == kernels[1] == build(REPOSITORY).encode()


def test_it_runs_alone_and_each_guard_fires_as_it_should(tmp_path, plant):
    text = build(plant(tmp_path))
    done = run_alone(tmp_path / "alone", text)
    source_hash = re.search(r"^# sources (\w{16})", text, re.MULTILINE)[1]
    halved = "def halved(disc):\n    return replace(disc, radius=disc.radius * math.sqrt(HALF))\n"
    strings = "\nimport nuclei.geometry.shapes   \nfrom nuclei.geometry.shapes import *\n6.28 \tA"
    assert done.stdout == f"{strings} {source_hash}\n{halved}\n", done.stderr


def test_a_traceback_leads_to_the_line_and_its_banner_to_the_module(tmp_path, plant):
    text = build(plant(tmp_path))
    done = run_alone(tmp_path / "alone", text, "fail")
    assert done.returncode == 1
    number = int(re.findall(r"script.py\", line (\d+)", done.stderr)[-1])
    assert text.split("\n")[number - 1] == '    raise RuntimeError("on purpose")'
    assert [name for name, line in banners(text).items() if line < number][-1] == "geometry.round"


def test_every_statement_and_comment_survives(real):
    text, chapters = real
    kept = []
    for chapter in chapters:
        for node in ast.parse(chapter.text).body[1:]:
            guard = isinstance(node, ast.If) and chapter.name != build_kernel.ENTRY
            if not guard and not isinstance(node, ast.Import | ast.ImportFrom):
                kept.append(ast.dump(node))
    assert [ast.dump(node) for node in ast.parse(text).body][-len(kept) :] == kept
    comments = [line for chapter in chapters for line in chapter.text.split("\n") if line.strip().startswith("#")]
    assert [line for line in comments if line not in text.split("\n")] == []


def test_only_reachable_chapters_ship_in_the_declared_order(tmp_path, plant):
    text = build(plant(tmp_path))
    assert list(banners(text)) == ["geometry.shapes", "geometry.round", "run.start"]
    assert "unreached" not in text.lower() and "later" not in text.lower()


def test_the_real_chapters_are_all_that_there_is_and_all_are_reached(real):
    """A module that nobody needs, and a place in CHAPTERS without a module, would go unnoticed by the builder."""
    declared = [f"{folder}.{name}" for folder, names in build_kernel.CHAPTERS.items() for name in names]
    files = {path.relative_to(SCIENCE).with_suffix("") for path in SCIENCE.rglob("[a-z]*.py")}
    assert {".".join(path.parts) for path in files} == set(declared)
    assert [chapter.name for chapter in read_chapters(REPOSITORY, notebook=True)] == declared
    text, chapters = real
    assert [chapter.name for chapter in chapters] == list(banners(text)) == declared[:-1]
    for position, chapter in enumerate(chapters):
        assert {other for _, other, _ in chapter.needs} <= set(declared[:position])


def test_it_is_read_in_one_sitting(real):
    lines = banners(real[0])
    assert real[0].count("\n") <= 2300
    assert lines["training_data.kinds"] <= 300 and lines["network.model"] <= 800


def test_the_header_lists_the_chapters_by_folder_where_they_are(tmp_path, plant, real):
    for text, root in ((real[0], REPOSITORY), (build(plant(tmp_path)), tmp_path)):
        listed, folder = {}, None
        titles = {
            ast.get_docstring(ast.parse(path.read_text())): path for path in root.glob("src/nuclei/*/__init__.py")
        }
        for line in text.split("\n\n")[0].splitlines():
            if line[2:] in titles:
                folder = titles[line[2:]].parent.name
            elif match := re.fullmatch(r"# +\d+  (\w+) +line +(\d+)  (\w.*)", line):
                listed[f"{folder}.{match[1]}"] = int(match[2])
                first = (root / f"src/nuclei/{folder}/{match[1]}.py").read_text().splitlines()[0]
                assert first.strip('"').endswith(match[3])  # none is cut short
        assert listed and list(listed.items()) == list(banners(text).items())


def test_the_source_hash_changes_with_what_ships_alone(tmp_path, plant):
    def source_hash(name, modules=None):
        return re.search(r'^SOURCE_HASH = "(\w{16})"$', build(plant(tmp_path / name, modules)), re.MULTILINE)[1]

    first = source_hash("first")
    assert source_hash("other", {"geometry/unreached": '"""Something else."""\n'}) == first
    assert source_hash("third", with_ending("# changed\n")) != first


def test_it_reads_like_a_script_by_hand(real):
    text, _ = real
    assert text.isascii()
    assert max(map(len, text.split("\n"))) <= 120
    for word in ("base64", "exec(", "nuclei_kit", "from nuclei", "import nuclei"):
        assert word not in text
    assert text.count('if __name__ == "__main__":') == 1
    assert re.search(r"^# ==== 1\. src/nuclei/settings/\w+\.py =+\n# \w", text, re.MULTILINE)


@pytest.mark.skipif(not shutil.which("ruff", path=Path(sys.executable).parent), reason="ruff is not installed")
def test_ruff_finds_nothing_to_mend_but_blank_lines(tmp_path, plant):
    kernel = tmp_path / "kernel.py"
    text = build(plant(tmp_path)).replace("shapes   \n", "shapes\n")
    kernel.write_text(text)
    ruff = Path(sys.executable).with_name("ruff")
    options = ["--isolated", "--no-cache", "--line-length=120", str(kernel)]
    subprocess.run([ruff, "check", "--select=E,W,F,I,UP", "--ignore=I001", *options], check=True)
    subprocess.run([ruff, "format", *options], check=True)
    assert list(filter(None, kernel.read_text().split("\n"))) == list(filter(None, text.split("\n")))


def test_functions_are_one_blank_line_apart_and_chapters_two(tmp_path, plant, real):
    for text in (build(plant(tmp_path)), real[0]):
        gaps = re.findall(r"\n(\n+)(?=([^\n]*))", text)
        assert {len(blank) for blank, line in gaps if line.startswith("# ==== ")} == {2}
        assert {len(blank) for blank, line in gaps if line.startswith(("def ", "class ", "@"))} == {1}


def test_a_string_that_would_lose_a_blank_line_is_refused(tmp_path, plant):
    root = plant(tmp_path, {"geometry/round": textwrap.dedent(ROUND) + 'TEXT = """a\n\n\nb"""\n'})
    with pytest.raises(BuildError, match="two blank lines"):
        build(root)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_it_parses_as_every_python_it_may_meet(real, tmp_path, version):
    python = shutil.which(f"python{version}")
    if not python or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no python{version} here")
    (tmp_path / "kernel.py").write_text(real[0])
    check = "import ast, sys; ast.parse(open(sys.argv[1]).read())"
    subprocess.run([python, "-W", "error", "-c", check, str(tmp_path / "kernel.py")], check=True)


def test_imports_are_merged_and_sorted(tmp_path, plant):
    long = [f"name_{i:02}" for i in range(15)]
    wrapped = "".join(f"    {name},\n" for name in long)
    imports = f"from numpy.linalg import (\n{wrapped})\nfrom scipy import ndimage as ndi\nimport os.path, abc\n"
    root = plant(
        tmp_path, {"geometry/round": textwrap.dedent(ROUND).replace("import math\n", imports + "import math\n")}
    )
    assert top_block(read_chapters(root)).split("\n\nSOURCE_HASH")[0] == (
        "import abc\nimport inspect\nimport math\nimport os.path\nimport sys\n"
        "from dataclasses import dataclass, field, replace\n\n"
        f"import numpy as np\nfrom numpy.linalg import (\n{wrapped})\nfrom scipy import ndimage as ndi"
    )


def test_the_notebook_holds_the_same_chapters_and_runs(tmp_path, plant):
    root = plant(tmp_path)
    notebook = json.loads(build(root, notebook=True))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert [cell["id"] for cell in notebook["cells"]] == ["header", "imports", "shapes", "round", "start"]
    assert [cell["cell_type"] for cell in notebook["cells"]] == ["markdown"] + ["code"] * 4
    sources = ["".join(cell["source"]) for cell in notebook["cells"][1:]]
    assert "\n\n\n".join(sources) + "\n" == build(root).split("\n\n", 1)[1]
    # A notebook gives getsource one file a cell, and runs them in one namespace.
    cells = "".join(
        f"linecache.cache[{name!r}] = (1, None, {source!r}.splitlines(True), {name!r})\n"
        f"exec(compile({source!r}, {name!r}, 'exec'))\n"
        for name, source in zip(("<0>", "<1>", "<2>", "<3>"), sources, strict=True)
    )
    done = run_alone(tmp_path / "alone", f"import linecache\n{cells}")
    assert "6.28" in done.stdout and "def halved" in done.stdout, done.stderr


def test_a_notebook_ends_with_a_chapter_of_its_own(tmp_path, plant):
    last = '"""Last."""\n\nfrom nuclei.geometry.shapes import Disc\n\nif __name__ == "__main__":\n    print(Disc)\n'
    root = plant(tmp_path, {"run/last": last})
    cells = json.loads(build(root, notebook=True))["cells"]
    assert [cell["id"] for cell in cells][-2:] == ["start", "last"]
    assert "".join(cells[-1]["source"]).endswith("print(Disc)")
    assert "Last." not in build(root)


def test_a_notebook_that_is_there_is_kept_up_to_date(tmp_path, plant):
    root = plant(tmp_path)
    assert main([], root) == 0
    assert set(snapshot(root)) == {"kernel-metadata.json", "nuclei_kernel.py"}
    assert main(["--notebook"], root) == 0
    before = snapshot(root)
    (root / "src/nuclei/geometry/round.py").write_text(textwrap.dedent(ROUND).replace("on purpose", "anew").lstrip())
    assert main(["--check"], root) == 1
    assert main([], root) == 0
    after = snapshot(root)
    assert all(before[name] != after[name] for name in ("nuclei_kernel.py", "nuclei_kernel.ipynb"))
    assert main(["--check"], root) == 0


# ---- the command -------------------------------------------------------------------------------


def snapshot(root):
    """What stands in kernel/, and since when."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (root / "kernel").iterdir()}


@pytest.mark.parametrize("options", [[], ["--notebook"]])
def test_check_tells_stale_from_fresh_and_writes_nothing(tmp_path, plant, capsys, options):
    root = plant(tmp_path)
    before = snapshot(root)
    assert main(["--check", *options], root) == 1
    assert snapshot(root) == before
    assert main(options, root) == 0
    before = snapshot(root)
    assert main(["--check", *options], root) == 0
    capsys.readouterr()
    path = root / "src/nuclei/geometry/round.py"
    path.write_text(path.read_text().replace("purpose", "reflection"))
    assert main(["--check", *options], root) == 1
    diff = capsys.readouterr().out.splitlines()
    assert any(line.startswith("-") and "purpose" in line for line in diff)
    assert any(line.startswith("+") and "reflection" in line for line in diff)
    assert snapshot(root) == before


@pytest.mark.parametrize("options", [[], ["--notebook"]])
def test_a_kernel_edited_by_hand_is_overwritten_by_force_alone(tmp_path, plant, capsys, options):
    root = plant(tmp_path)
    assert main(options, root) == 0
    kernel = root / "kernel" / ("nuclei_kernel.ipynb" if options else "nuclei_kernel.py")
    built = kernel.read_text()
    kernel.write_bytes(built.replace("\n", "\r\n").encode())
    assert main(options, root) == 0  # a checkout on Windows is not an edit
    for edited in (
        built.replace("on purpose", "by hand"),
        built.replace("change the sources", "change this"),
        "by hand",
    ):
        kernel.write_text(edited)
        before = snapshot(root)
        assert main(options, root) == 2
        assert f"kernel/{kernel.name}:1: edited by hand" in capsys.readouterr().err
        assert snapshot(root) == before
        assert main(["--check", *options], root) == 1
    assert main(["--force", *options], root) == 0
    assert kernel.read_text() == built


def test_a_failed_build_leaves_the_old_kernel(tmp_path, plant, capsys):
    root = plant(tmp_path)
    assert main([], root) == 0
    before = snapshot(root)
    (root / "src/nuclei/geometry/round.py").write_text('"""Round."""\n\ndef\n')
    assert main([], root) == 2
    assert capsys.readouterr().err == "src/nuclei/geometry/round.py:3: invalid syntax\n"
    assert snapshot(root) == before


def test_the_size_that_kaggle_takes(tmp_path, plant, capsys, monkeypatch):
    root = plant(tmp_path)
    size = len(build(root).encode())
    monkeypatch.setattr(build_kernel, "SIZE_WARNING", size + 1)
    assert main([], root) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(build_kernel, "SIZE_WARNING", size)
    monkeypatch.setattr(build_kernel, "SIZE_LIMIT", size + 1)
    assert main([], root) == 0
    assert "warning" in capsys.readouterr().err
    monkeypatch.setattr(build_kernel, "SIZE_LIMIT", size)
    assert main([], root) == 2
    assert f"{size:,} bytes" in capsys.readouterr().err


# ---- errors ------------------------------------------------------------------------------------

TAKES_SHAPES = "from nuclei.geometry.shapes import Disc"
FORM = "from nuclei.folder.module import name"

# What stands in round.py from its third line on, the line of the error, and its words.
ERRORS = {
    "a whole chapter": ("import nuclei.geometry.shapes", 3, FORM),
    "a chapter from its folder": ("from nuclei.geometry import shapes", 3, FORM),
    "a folder from the package": ("from nuclei import geometry", 3, FORM),
    "a chapter with an alias": ("from nuclei.geometry.shapes import HALF as H", 3, FORM),
    "a chapter below a chapter": ("from nuclei.geometry.shapes.more import HALF", 3, FORM),
    "a chapter in a function": ("def f():\n    from nuclei.geometry.shapes import HALF", 4, FORM),
    "a star": ("from nuclei.geometry.shapes import *", 3, "by its name"),
    "a star of a library": ("from math import *", 3, "by its name"),
    "a relative import": ("from .shapes import HALF", 3, "relative"),
    "a relative import of a module": ("from . import shapes", 3, "relative"),
    "the future": ("from __future__ import annotations", 3, "__future__"),
    "a chapter that is not there": ("from nuclei.geometry.squares import SIDE", 3, "no src/nuclei/geometry/squares.py"),
    "a chapter without a place": (
        "from nuclei.geometry.stray import SIDE",
        3,
        "geometry.stray has no place in CHAPTERS",
    ),
    "a name that is not there": ("from nuclei.geometry.shapes import Square", 3, "shapes.py defines no Square"),
    "a name that the other imports": ("from nuclei.geometry.shapes import dataclass", 3, "defines no dataclass"),
    "a later chapter": ("from nuclei.geometry.later import SIDE", 3, "a forward import: "),
    "a circle": ("from nuclei.run.start import run", 3, "a forward import: "),
    "itself": ("from nuclei.geometry.round import halved", 3, "a forward import: "),
    "a library that Kaggle lacks": ("import leftpad", 3, "leftpad is not in the standard library"),
    "the wing that stays at home": ("from nuclei_kit.command.cli import main", 3, "nuclei_kit is not in"),
    "a local library that Kaggle lacks": ("def f():\n    import leftpad", 4, "leftpad is not in"),
    "an import under a condition": ("if True:\n    import math", 4, "nowhere else"),
    "an import that may fail": ("try:\n    import math\nexcept ImportError:\n    math = None", 4, "nowhere else"),
    "an import in a class": ("class C:\n    import math", 4, "nowhere else"),
    "an import after code": ("import math\nX = 1\nimport os", 5, "imports come first"),
    "a comment behind an import": ("import math  # why", 3, "# why stands on a line that vanishes"),
    "a comment within an import": ("from math import (\n    pi,  # why\n)", 4, "# why stands on a line that vanishes"),
    "code behind an import": ("import math; X = 1", 3, "; stands on a line that vanishes"),
    "import_module": ("from importlib import import_module", 3, "import_module"),
    "importlib": ("import importlib\nimportlib.import_module('nuclei.geometry.shapes')", 4, "import_module"),
    "__import__": ("X = __import__('nuclei.geometry.shapes')", 3, "__import__"),
    "exec": ("exec('X = 1')", 3, "exec"),
    "__file__": ("X = __file__", 3, "__file__ is another thing"),
    "__name__": ("X = __name__", 3, "__name__ is another thing"),
    "a guard with another side": ('if __name__ == "__main__":\n    X = 1\nelse:\n    X = 2', 3, "__name__ is another"),
    "a global": ("def f():\n    global X\n    X = 1", 4, "no global statement"),
    "a function's name twice": (
        f"{TAKES_SHAPES}\ndef describe():\n    pass",
        4,
        "describe is geometry.round's here, but geometry.shapes's at",
    ),
    "a constant's name twice": (
        f"{TAKES_SHAPES}\nHALF = 1",
        4,
        "shapes's at src/nuclei/geometry/shapes.py:13: rename one",
    ),
    "a name bound by a loop twice": (f"{TAKES_SHAPES}\nfor HALF in (1, 2):\n    pass", 4, "rename one"),
    "a name bound by := twice": (f"{TAKES_SHAPES}\nX = [HALF := 1]", 4, "rename one"),
    "an alias for two libraries": (
        f"{TAKES_SHAPES}\nimport scipy as np",
        4,
        "np is scipy here, but numpy at",
    ),
    "a function named like an import": (
        f"{TAKES_SHAPES}\ndef np():\n    pass",
        4,
        "np is geometry.round's here, but numpy at",
    ),
    "the builder's own name": ("SOURCE_HASH = 1", 3, "the builder's"),
    "a hidden builtin": ("def max():\n    pass", 3, "max would hide Python's own"),
    "an imported builtin": ("from os import open", 3, "open would hide Python's own"),
    "syntax": ("def", 3, "invalid syntax"),
    "a letter beyond ASCII": ('X = "\u00b5m"', 3, "not ASCII"),
    "a long line": (f"X = {'1' * 117}", 3, "over 120 columns"),
    "a key": (f'X = "{"0123456789abcdef" * 2}"', 3, "a Kaggle key"),
    "a token": (f"# KGAT_{'x' * 32}", 3, "a Kaggle token"),
    "a home": ('X = "/home/jane/data"', 3, "somebody's home"),
    "a home on a Mac": ("# /Users/jane", 3, "somebody's home"),
    "a home on Windows": ('X = "C:\\\\Users\\\\jane"', 3, "somebody's home"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_flattened_is_refused_where_it_stands(tmp_path, plant, name):
    code, line, message = ERRORS[name]
    text = f'"""Round."""\n\n{code}\n\n\ndef halved(x):\n    pass\n\n\nfail = halved\n'
    root = plant(tmp_path, {"geometry/round": text})
    with pytest.raises(BuildError, match=f"^src/nuclei/geometry/round.py:{line}: .*{re.escape(message)}"):
        build(root)


@pytest.mark.parametrize(
    "name, text, line, message",
    [
        ("geometry/round", "import math\n", 1, "a module starts with a docstring"),
        ("geometry/round", f'"""Round.\n\n{"x" * 119}\n"""\n', 3, "over 120 columns as a comment"),
        ("run/start", '"""Start."""\n', 1, "nothing would run"),
        ("run/last", '"""Last."""\n', 1, "nothing would run"),
        ("__init__", '"""Package."""\n\nX = 1\n', 3, "this file does not ship"),
        ("geometry/__init__", '"""Geometry."""\n\nX = 1\n', 3, "this file does not ship"),
        ("geometry/__init__", "", 1, "a folder has a docstring of one line"),
        ("geometry/__init__", '"""Geometry.\n\nMore of it.\n"""\n', 1, "a folder has a docstring of one line"),
    ],
)
def test_a_module_that_lacks_or_has_too_much_is_refused(tmp_path, plant, name, text, line, message):
    root = plant(tmp_path, {name: text})
    with pytest.raises(BuildError, match=f"^src/nuclei/{name}.py:{line}: {message}"):
        build(root, notebook=True)


def test_a_folder_without_a_title_is_refused(tmp_path, plant):
    root = plant(tmp_path)
    (root / "src/nuclei/run/__init__.py").unlink()
    with pytest.raises(BuildError, match=r"^src/nuclei/run/__init__\.py:1: a folder has a docstring of one line"):
        build(root)


def test_a_description_is_shown_whole_or_refused(tmp_path, plant):
    def describe(count):
        return {"geometry/round": textwrap.dedent(ROUND).replace("the chapter between.", "x" * count)}

    room = 118 - len("   2  round        line    20  ")
    header = build(plant(tmp_path / "fits", describe(room))).split("\n\n")[0].splitlines()
    assert max(map(len, header)) == 120 and any(line.endswith("  " + "x" * room) for line in header)
    with pytest.raises(BuildError, match=r"^src/nuclei/geometry/round.py:1: .* too long for the header"):
        build(plant(tmp_path / "does not", describe(room + 1)))


def test_bad_metadata_stop_the_build(tmp_path, plant, capsys):
    root = plant(tmp_path)
    (root / "kernel/kernel-metadata.json").write_text('{\n  "id": \n}')
    assert main([], root) == 2
    (root / "kernel/kernel-metadata.json").unlink()
    assert main([], root) == 2
    wrong = "kernel/kernel-metadata.json"
    assert capsys.readouterr().err.startswith(f"{wrong}:3: Expecting value\n{wrong}:1: there is no such file")
