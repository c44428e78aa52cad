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
from build_kernel import BuildError, build, check_metadata, main, read_chapters, top_block

REPOSITORY = Path(build_kernel.__file__).parent
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
    import nuclei.shapes   
    from nuclei.shapes import *
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

    from nuclei.shapes import HALF, Disc


    def halved(disc):
        return replace(disc, radius=disc.radius * math.sqrt(HALF))


    def fail():
        raise RuntimeError("on purpose")


    assert field
    assert Disc
'''
ENTRY = '''
    """Entry: prints an area."""

    import inspect
    import sys

    from nuclei.round import fail, halved
    from nuclei.shapes import Disc, describe


    def run():
        print(describe(halved(Disc(2.0))), globals().get("SOURCE_HASH"))
        if "fail" in sys.argv:
            fail()
        print(inspect.getsource(halved))


    if __name__ == "__main__":
        run()
'''
PACKAGE = {"shapes": SHAPES, "round": ROUND, "__main__": ENTRY, "unreached": '"""Unreached."""\n\nimport leftpad\n'}


def plant(root, **modules):
    """A repository with the drawn package, `modules` in place of or beside its own."""
    source = root / "src/nuclei"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text('"""A drawn package."""\n')
    for name, text in (PACKAGE | modules).items():
        (source / f"{name}.py").write_text(textwrap.dedent(text).lstrip("\n"))
    (root / "kernel").mkdir()
    (root / "kernel/kernel-metadata.json").write_text(METADATA)
    return root


def run_alone(folder, text, *arguments):
    """Runs a kernel as Kaggle does: by itself, in a folder that it cannot write, out of reach of any other module."""
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


def banners(text):
    """{chapter: line of its banner}, lines from 1."""
    found = re.finditer(r"^# =+\n# \d+\. (\w+) \(src/nuclei/(\w+)\.py\)$", text, re.MULTILINE)
    return {match[1]: text[: match.start()].count("\n") + 1 for match in found}


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


def test_it_runs_alone_and_each_guard_fires_as_it_should(tmp_path):
    text = build(plant(tmp_path))
    done = run_alone(tmp_path / "alone", text)
    source_hash = re.search(r"^# sources (\w{16})", text, re.MULTILINE)[1]
    halved = "def halved(disc):\n    return replace(disc, radius=disc.radius * math.sqrt(HALF))\n"
    strings = "\nimport nuclei.shapes   \nfrom nuclei.shapes import *\n6.28 \tA"
    assert done.stdout == f"{strings} {source_hash}\n{halved}\n", done.stderr


def test_a_traceback_leads_to_the_line_and_its_banner_to_the_module(tmp_path):
    text = build(plant(tmp_path))
    done = run_alone(tmp_path / "alone", text, "fail")
    assert done.returncode == 1
    number = int(re.findall(r"script.py\", line (\d+)", done.stderr)[-1])
    assert text.split("\n")[number - 1] == '    raise RuntimeError("on purpose")'
    assert [name for name, line in banners(text).items() if line < number][-1] == "round"


def test_every_statement_and_comment_survives(real):
    text, chapters = real
    kept = []
    for chapter in chapters:
        for node in ast.parse(chapter.text).body[1:]:
            guard = isinstance(node, ast.If) and chapter.name != "__main__"
            if not guard and not isinstance(node, ast.Import | ast.ImportFrom):
                kept.append(ast.dump(node))
    assert [ast.dump(node) for node in ast.parse(text).body][-len(kept) :] == kept
    comments = [line for chapter in chapters for line in chapter.text.split("\n") if line.strip().startswith("#")]
    assert [line for line in comments if line not in text.split("\n")] == []


def test_only_reachable_chapters_ship_each_after_what_it_imports(tmp_path, real):
    text = build(plant(tmp_path))
    assert list(banners(text)) == ["shapes", "round", "__main__"]
    assert "unreached" not in text.lower()
    _, chapters = real
    names = [chapter.name for chapter in chapters]
    for position, chapter in enumerate(chapters):
        assert {other for _, other, _ in chapter.needs} <= set(names[:position])


def test_the_header_lists_the_chapters_where_they_are(tmp_path, real):
    for text in (build(plant(tmp_path)), real[0]):
        listed = re.findall(r"^# +\d+  (\w+) +line +(\d+)  \w", text, re.MULTILINE)
        assert {name: int(line) for name, line in listed} == banners(text)
        assert listed


def test_the_source_hash_changes_with_what_ships_alone(tmp_path):
    def source_hash(name, **modules):
        return re.search(r'^SOURCE_HASH = "(\w{16})"$', build(plant(tmp_path / name, **modules)), re.MULTILINE)[1]

    first = source_hash("first")
    assert source_hash("other", unreached='"""Something else."""\n') == first
    assert source_hash("third", round=ROUND + "    # changed\n") != first


def test_it_reads_like_a_script_by_hand(real):
    text, _ = real
    assert text.isascii()
    assert max(map(len, text.split("\n"))) <= 120
    for word in ("base64", "exec(", "workbench", "from nuclei", "import nuclei"):
        assert word not in text
    assert text.count('if __name__ == "__main__":') == 1
    assert re.search(r"^# 1\. \w+ \(src/nuclei/\w+\.py\)\n#\n# \w", text, re.MULTILINE)


@pytest.mark.skipif(not shutil.which("ruff", path=Path(sys.executable).parent), reason="ruff is not installed")
def test_ruff_finds_nothing_to_mend(tmp_path):
    kernel = tmp_path / "kernel.py"
    kernel.write_text(build(plant(tmp_path)).replace("shapes   \n", "shapes\n"))
    ruff = Path(sys.executable).with_name("ruff")
    options = ["--isolated", "--no-cache", "--line-length=120", str(kernel)]
    subprocess.run([ruff, "check", "--select=E,W,F,I,UP", *options], check=True)
    subprocess.run([ruff, "format", "--check", *options], check=True)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_it_parses_as_every_python_it_may_meet(real, tmp_path, version):
    python = shutil.which(f"python{version}")
    if not python or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no python{version} here")
    (tmp_path / "kernel.py").write_text(real[0])
    check = "import ast, sys; ast.parse(open(sys.argv[1]).read())"
    subprocess.run([python, "-W", "error", "-c", check, str(tmp_path / "kernel.py")], check=True)


def test_imports_are_merged_and_sorted(tmp_path):
    long = [f"name_{i:02}" for i in range(15)]
    wrapped = "".join(f"    {name},\n" for name in long)
    imports = f"from numpy.linalg import (\n{wrapped})\nfrom scipy import ndimage as ndi\nimport os.path, abc\n"
    root = plant(tmp_path, round=textwrap.dedent(ROUND).replace("import math\n", imports + "import math\n"))
    assert top_block(read_chapters(root)).split("\n\nSOURCE_HASH")[0] == (
        "import abc\nimport inspect\nimport math\nimport os.path\nimport sys\n"
        "from dataclasses import dataclass, field, replace\n\n"
        f"import numpy as np\nfrom numpy.linalg import (\n{wrapped})\nfrom scipy import ndimage as ndi"
    )


def test_the_notebook_holds_the_same_chapters_and_runs(tmp_path):
    root = plant(tmp_path)
    notebook = json.loads(build(root, notebook=True))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert [cell["id"] for cell in notebook["cells"]] == ["header", "imports", "shapes", "round", "__main__"]
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


def test_a_notebook_ends_with_a_chapter_of_its_own(tmp_path):
    last = '"""Last."""\n\nfrom nuclei.shapes import Disc\n\nif __name__ == "__main__":\n    print(Disc)\n'
    root = plant(tmp_path, notebook=last)
    cells = json.loads(build(root, notebook=True))["cells"]
    assert [cell["id"] for cell in cells][-2:] == ["__main__", "notebook"]
    assert "".join(cells[-1]["source"]).endswith("print(Disc)")
    assert "Last." not in build(root)


def test_a_notebook_that_is_there_is_kept_up_to_date(tmp_path):
    root = plant(tmp_path)
    assert main([], root) == 0
    assert set(snapshot(root)) == {"kernel-metadata.json", "nuclei_kernel.py"}
    assert main(["--notebook"], root) == 0
    before = snapshot(root)
    (root / "src/nuclei/round.py").write_text(textwrap.dedent(ROUND).replace("on purpose", "anew").lstrip())
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
def test_check_tells_stale_from_fresh_and_writes_nothing(tmp_path, capsys, options):
    root = plant(tmp_path)
    before = snapshot(root)
    assert main(["--check", *options], root) == 1
    assert snapshot(root) == before
    assert main(options, root) == 0
    before = snapshot(root)
    assert main(["--check", *options], root) == 0
    capsys.readouterr()
    (root / "src/nuclei/round.py").write_text(
        (root / "src/nuclei/round.py").read_text().replace("purpose", "reflection")
    )
    assert main(["--check", *options], root) == 1
    diff = capsys.readouterr().out.splitlines()
    assert any(line.startswith("-") and "purpose" in line for line in diff)
    assert any(line.startswith("+") and "reflection" in line for line in diff)
    assert snapshot(root) == before


@pytest.mark.parametrize("options", [[], ["--notebook"]])
def test_a_kernel_edited_by_hand_is_overwritten_by_force_alone(tmp_path, capsys, options):
    root = plant(tmp_path)
    assert main(options, root) == 0
    kernel = root / "kernel" / ("nuclei_kernel.ipynb" if options else "nuclei_kernel.py")
    built = kernel.read_text()
    kernel.write_bytes(built.replace("\n", "\r\n").encode())
    assert main(options, root) == 0  # a checkout on Windows is no edit
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


def test_a_failed_build_leaves_the_old_kernel(tmp_path, capsys):
    root = plant(tmp_path)
    assert main([], root) == 0
    before = snapshot(root)
    (root / "src/nuclei/round.py").write_text('"""Round."""\n\ndef\n')
    assert main([], root) == 2
    assert capsys.readouterr().err == "src/nuclei/round.py:3: invalid syntax\n"
    assert snapshot(root) == before


def test_the_size_that_kaggle_takes(tmp_path, capsys, monkeypatch):
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

TAKES_SHAPES = "from nuclei.shapes import Disc"

# What stands in round.py from its third line on, the line of the error, and its words.
ERRORS = {
    "a whole chapter": ("import nuclei.shapes", 3, "from nuclei.module import name"),
    "a chapter from the package": ("from nuclei import shapes", 3, "from nuclei.module import name"),
    "a chapter with an alias": ("from nuclei.shapes import HALF as H", 3, "from nuclei.module import name"),
    "a chapter below a chapter": ("from nuclei.shapes.more import HALF", 3, "from nuclei.module import name"),
    "a chapter in a function": (
        "def f():\n    from nuclei.shapes import HALF",
        4,
        "from nuclei.module import name",
    ),
    "a star": ("from nuclei.shapes import *", 3, "by its name"),
    "a star of a library": ("from math import *", 3, "by its name"),
    "a relative import": ("from .shapes import HALF", 3, "relative"),
    "a relative import of a module": ("from . import shapes", 3, "relative"),
    "the future": ("from __future__ import annotations", 3, "__future__"),
    "a chapter that is not there": ("from nuclei.squares import SIDE", 3, "no src/nuclei/squares.py"),
    "a name that is not there": ("from nuclei.shapes import Square", 3, "shapes.py defines no Square"),
    "a name that the other imports": ("from nuclei.shapes import dataclass", 3, "shapes.py defines no dataclass"),
    "a circle": ("from nuclei.__main__ import run", 3, "circular import: __main__ -> round -> __main__"),
    "itself": ("from nuclei.round import halved", 3, "circular import: round -> round"),
    "a library that Kaggle lacks": ("import leftpad", 3, "leftpad is not in the standard library"),
    "the wing that stays at home": ("from workbench.cli import main", 3, "workbench is not in"),
    "a local library that Kaggle lacks": ("def f():\n    import leftpad", 4, "leftpad is not in"),
    "an import under a condition": ("if True:\n    import math", 4, "nowhere else"),
    "an import that may fail": ("try:\n    import math\nexcept ImportError:\n    math = None", 4, "nowhere else"),
    "an import in a class": ("class C:\n    import math", 4, "nowhere else"),
    "an import after code": ("import math\nX = 1\nimport os", 5, "imports come first"),
    "a comment behind an import": ("import math  # why", 3, "# why stands on a line that vanishes"),
    "a comment within an import": ("from math import (\n    pi,  # why\n)", 4, "# why stands on a line that vanishes"),
    "code behind an import": ("import math; X = 1", 3, "; stands on a line that vanishes"),
    "import_module": ("from importlib import import_module", 3, "import_module"),
    "importlib": ("import importlib\nimportlib.import_module('nuclei.shapes')", 4, "import_module"),
    "__import__": ("X = __import__('nuclei.shapes')", 3, "__import__"),
    "exec": ("exec('X = 1')", 3, "exec"),
    "__file__": ("X = __file__", 3, "__file__ is another thing"),
    "__name__": ("X = __name__", 3, "__name__ is another thing"),
    "a guard with another side": ('if __name__ == "__main__":\n    X = 1\nelse:\n    X = 2', 3, "__name__ is another"),
    "a global": ("def f():\n    global X\n    X = 1", 4, "no global statement"),
    "a function's name twice": (
        f"{TAKES_SHAPES}\ndef describe():\n    pass",
        4,
        "describe is round's here, but shapes's at",
    ),
    "a constant's name twice": (f"{TAKES_SHAPES}\nHALF = 1", 4, "shapes's at src/nuclei/shapes.py:13: rename one"),
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
        "np is round's here, but numpy at",
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
def test_what_cannot_be_flattened_is_refused_where_it_stands(tmp_path, name):
    code, line, message = ERRORS[name]
    root = plant(tmp_path, round=f'"""Round."""\n\n{code}\n\n\ndef halved(x):\n    pass\n\n\nfail = halved\n')
    with pytest.raises(BuildError, match=f"^src/nuclei/round.py:{line}: .*{re.escape(message)}"):
        build(root)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("round", "import math\n", "src/nuclei/round.py:1: a module starts with a docstring"),
        ("round", f'"""Round.\n\n{"x" * 119}\n"""\n', "src/nuclei/round.py:3: over 120 columns as a comment"),
        ("__main__", '"""Entry."""\n', "src/nuclei/__main__.py:1: nothing would run"),
        ("__init__", '"""Package."""\n\nX = 1\n', "src/nuclei/__init__.py:3: this file does not ship"),
    ],
)
def test_a_module_that_lacks_or_has_too_much_is_refused(tmp_path, name, text, message):
    root = plant(tmp_path)
    (root / f"src/nuclei/{name}.py").write_text(text)
    with pytest.raises(BuildError, match=f"^{re.escape(message)}"):
        build(root)


# ---- kernel-metadata.json ----------------------------------------------------------------------


def test_the_metadata_of_this_repository_are_what_the_competition_needs():
    data = check_metadata("kernel/kernel-metadata.json", METADATA)
    assert data["competition_sources"] == ["data-science-bowl-2018"]
    assert (data["enable_internet"], data["machine_shape"]) == (False, "NvidiaTeslaT4")


@pytest.mark.parametrize(
    "key, value, line, message",
    [
        ("id", "nuclei", 2, "must be OWNER/SLUG"),
        ("id", "jane/cell", 2, "must be OWNER/SLUG"),
        ("title", "Other nuclei", 3, "gives the slug other-nuclei"),
        ("code_file", "kernel.py", 4, "must be nuclei_kernel.py"),
        ("language", "r", 5, "must be python"),
        ("kernel_type", "app", 6, "must be script or notebook"),
        ("kernel_type", "notebook", 4, "must be nuclei_kernel.ipynb"),
        ("is_private", "true", 7, "must be a bool"),
        ("enable_gpu", False, 8, "must be true"),
        ("enable_internet", None, 1, "is missing"),
        ("machine_shape", "T4", 11, "must be one of NvidiaTeslaT4"),
        ("competition_sources", "data-science-bowl-2018", 12, "must be a list"),
        ("gpu", True, 16, "is a key that Kaggle ignores"),
    ],
)
def test_metadata_that_would_fail_late_are_refused_at_once(key, value, line, message):
    data = json.loads(METADATA) | {key: value}
    text = json.dumps({k: v for k, v in data.items() if v is not None}, indent=2)
    text = re.sub(r"\[\n +(.*)\n +\]", r"[\1]", text)  # lists on one line, as in the file
    at = "code_file" if value == "notebook" else key  # a notebook needs another file
    with pytest.raises(BuildError, match=f"^metadata.json:{line}: {at} {message}"):
        check_metadata("metadata.json", text)


def test_metadata_that_are_no_json_or_not_there_are_refused(tmp_path, capsys):
    root = plant(tmp_path)
    (root / "kernel/kernel-metadata.json").write_text('{\n  "id": \n}')
    assert main([], root) == 2
    (root / "kernel/kernel-metadata.json").unlink()
    assert main([], root) == 2
    wrong = "kernel/kernel-metadata.json"
    assert capsys.readouterr().err.startswith(f"{wrong}:3: Expecting value\n{wrong}:1: there is no such file")
