"""Build the Kaggle kernel: a package flattened into one readable script.

    python build_kernel.py             write kernel/nuclei_kernel.py
    python build_kernel.py --check     exit 1 with a diff where it is not what the sources give; write nothing
    python build_kernel.py --notebook  the same for kernel/nuclei_kernel.ipynb, too, a cell a chapter

Kaggle runs a single file, so src/nuclei becomes one: each module that ENTRY reaches is a chapter under a banner, in
the order of CHAPTERS, which tells the story; a chapter that imports from a later one is an error. A module's docstring
turns into the banner, its third-party imports move to the top of the file, its imports from other modules and its main
guard vanish. Every other line stays as it is. In return no module may notice that all share one namespace: what could
let it notice is an error with file and line.

A notebook has the same chapters and ends with NOTEBOOK, where there is one. Once built, it is kept up to date together
with the script.

For another competition change PACKAGE, KERNEL_NAME and CHAPTERS, and write kernel/kernel-metadata.json.
Needs Python 3.11 and nothing else.
"""

import argparse
import ast
import builtins
import difflib
import hashlib
import io
import json
import re
import symtable
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))  # in a fresh clone nothing is installed

from nuclei.settings.files import write_whole  # noqa: E402
from nuclei_kit.kaggle.rules import (  # noqa: E402
    LINE_LENGTH,
    OLDEST_PYTHON,
    BuildError,
    check_lines,
    check_metadata,
    read_text,
)

PACKAGE = "nuclei"
KERNEL_NAME = "nuclei_kernel"
# The folders of src/PACKAGE and their modules, in the order in which they are read. What is not reached does not ship.
CHAPTERS = {
    "settings": ("config", "files"),
    "training_data": ("images", "kinds", "targets", "augmentation", "batches"),
    "network": ("model", "loss", "device", "parallel", "optimizer"),
    "training": ("schedule", "training_log", "train"),
    "prediction": ("tta", "watershed", "inference", "run_folder", "segmenter", "metric", "progress", "tuning"),
    "competition": ("data", "submission"),
    "run": ("stopwatch", "predictions", "main", "entry", "notebook"),
}
ENTRY, NOTEBOOK = "run.entry", "run.notebook"  # the modules whose main guard stays

# What a chapter may import besides the standard library. All of it is in Kaggle's image.
IMAGE_MODULES = {
    "cv2",
    "jax",
    "keras",
    "matplotlib",
    "numpy",
    "pandas",
    "scipy",
    "skimage",
    "tensorflow",
    "torch",
    "tqdm",
}
SIZE_LIMIT, SIZE_WARNING = 1_000_000, 900_000  # bytes; Kaggle takes less than a megabyte

# Names that mean something else in one file than in a module, and those that run code which no builder sees.
SHIFTING = {"__doc__", "__file__", "__name__", "__package__", "__path__", "__spec__"}
LOADERS = {"__import__", "eval", "exec", "import_module"}

SEAL = re.compile(r"(?<=this file )[0-9a-f]{16}")


@dataclass(frozen=True)
class Chapter:
    """A module, taken apart."""

    name: str  # folder.module
    path: str  # from the root
    text: str
    docstring: list[str]  # lines
    code: str  # the text without docstring, imports and main guard; ENTRY and NOTEBOOK keep theirs
    imports: list[tuple[int, str, str, str]]  # line, module, name ("" for a whole module), alias ("" for none)
    needs: list[tuple[int, str, str]]  # line, chapter, name
    defines: dict[str, int]  # name: line


# ---- one module --------------------------------------------------------------------------------


def read_chapter(root: Path, name: str) -> Chapter:
    """Take a module, named folder.module, apart; what cannot be flattened is a BuildError."""
    path = module_path(name)
    text = read_text(root / path)
    check_lines(path, text)
    try:
        tree = ast.parse(text, feature_version=OLDEST_PYTHON)
    except SyntaxError as error:
        raise BuildError(path, error.lineno, error.msg) from None
    docstring = (ast.get_docstring(tree) or "").split("\n")
    if not docstring[0]:
        raise BuildError(path, 1, "a module starts with a docstring, which becomes its banner")
    for number, line in enumerate(docstring, tree.body[0].lineno):
        if len(line) > LINE_LENGTH - 2:
            raise BuildError(path, number, f"over {LINE_LENGTH} columns as a comment of the banner")
    guards = [node for node in tree.body if is_main_guard(node)]
    if name in (ENTRY, NOTEBOOK) and not guards:
        raise BuildError(path, 1, 'nothing would run: this module ends with if __name__ == "__main__":')
    check_names(path, tree, guards)
    imports, needs = read_imports(path, tree)
    code = flatten(path, text, tree, [] if name in (ENTRY, NOTEBOOK) else guards)
    lines = first_lines(tree)
    symbols = symtable.symtable(code, path, "exec").get_symbols()
    defines = {symbol.get_name(): lines.get(symbol.get_name(), 1) for symbol in symbols if symbol.is_assigned()}
    return Chapter(name, path, text, docstring, code, imports, needs, defines)


def is_main_guard(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" and not node.orelse


def is_import(node: ast.AST) -> TypeGuard[ast.Import | ast.ImportFrom]:
    return isinstance(node, ast.Import | ast.ImportFrom)


def first_lines(tree: ast.Module) -> dict[str, int]:
    """Find the first line of a module that has each name."""
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        for name in (getattr(node, "name", None), getattr(node, "id", None)):
            if name:
                lines[name] = min(node.lineno, lines.get(name, node.lineno))
    return lines


def check_names(path: str, tree: ast.Module, guards: Sequence[ast.If]) -> None:
    """Refuse what would act differently in the one namespace of the kernel."""
    fine = {guard.test.left for guard in guards}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            raise BuildError(path, node.lineno, "no global statement: it would set the name for every chapter")
        if isinstance(node, ast.Name) and node.id in SHIFTING and node not in fine:
            raise BuildError(path, node.lineno, f"{node.id} is another thing in the kernel")
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        if name in LOADERS and (isinstance(node, ast.Name) or name == "import_module"):
            raise BuildError(path, node.lineno, f"{name} could load what does not ship")


def read_imports(path: str, tree: ast.Module) -> tuple[list, list]:
    """Read the imports that move to the top, and those from other chapters; refuse every other form."""
    imports: list[tuple[int, str, str, str]] = []
    needs: list[tuple[int, str, str]] = []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    local = {node for function in functions for node in ast.walk(function)}
    for before, node in pairwise(tree.body):
        if is_import(node) and not is_import(before) and before is not tree.body[0]:
            raise BuildError(path, node.lineno, "imports come first, since they move to the top")
    for node in filter(is_import, ast.walk(tree)):
        if node not in tree.body and node not in local:
            raise BuildError(path, node.lineno, "imports stand at the module's top or in a function, nowhere else")
        if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
            raise BuildError(path, node.lineno, "no relative imports, and none from __future__")
        for alias in node.names:
            module, name = (alias.name, "") if isinstance(node, ast.Import) else (node.module, alias.name)
            package = module.split(".")[0]
            if name == "*" or name in LOADERS:
                raise BuildError(path, node.lineno, f"import what is used by its name, not {name}")
            if package == PACKAGE:
                if node in local or not name or alias.asname or module.count(".") != 2:
                    raise BuildError(path, node.lineno, f"write `from {PACKAGE}.folder.module import name`, on top")
                needs.append((node.lineno, module.partition(".")[2], name))
            elif package not in sys.stdlib_module_names | IMAGE_MODULES:
                raise BuildError(path, node.lineno, f"{package} is not in the standard library, nor in IMAGE_MODULES")
            elif node not in local:
                imports.append((node.lineno, module, name, alias.asname or ""))
    return imports, needs


def flatten(path: str, text: str, tree: ast.Module, guards: Sequence[ast.If]) -> str:
    """Leave the docstring, the imports and `guards` out of a module's text, and every other line alone."""
    replaced = {line for node in tree.body if is_import(node) or node is tree.body[0] for line in lines_of(node)}
    for kind, string, (line, _), _, _ in tokenize.generate_tokens(io.StringIO(text).readline):
        if line in replaced and (kind == tokenize.COMMENT or string == ";"):
            raise BuildError(path, line, f"{string} stands on a line that vanishes: give it one of its own")
    gone = replaced.union(*(lines_of(guard) for guard in guards))
    kept: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line and number - 1 in gone and not (kept and kept[-1]):
            gone.add(number)  # a blank line that separated what is gone from what comes next
        if number not in gone:
            kept.append(line)
    return "\n".join(kept).strip("\n")


def lines_of(node: ast.stmt) -> range:
    return range(node.lineno, node.end_lineno + 1)


# ---- all of them -------------------------------------------------------------------------------


def module_path(name: str) -> str:
    """Return the path, from the root, of a module named folder.module."""
    return f"src/{PACKAGE}/{name.replace('.', '/')}.py"


def read_chapters(root: Path, notebook: bool = False) -> list[Chapter]:
    """Read the entry and what it reaches, in the order of CHAPTERS.

    Args:
        root: Path of the repository.
        notebook: whether NOTEBOOK comes last, with what it reaches.
    """
    declared = [f"{folder}.{module}" for folder, modules in CHAPTERS.items() for module in modules]
    reached: dict[str, Chapter] = {}
    waiting = [ENTRY] + [NOTEBOOK] * (notebook and (root / module_path(NOTEBOOK)).is_file())
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached[name] = chapter = read_chapter(root, name)
        for line, other, _ in chapter.needs:
            if not (root / module_path(other)).is_file():
                raise BuildError(chapter.path, line, f"there is no {module_path(other)}")
            if other not in declared:
                raise BuildError(
                    chapter.path, line, f"{other} has no place in CHAPTERS of build_kernel.py: give it one"
                )
            waiting.append(other)
    chapters = [reached[name] for name in declared if name in reached]
    check_order(chapters)
    return chapters


def check_order(chapters: Sequence[Chapter]) -> None:
    """Refuse imports of what comes later, or of what is not there."""
    done: dict[str, Chapter] = {}
    for chapter in chapters:
        for line, other, symbol in chapter.needs:
            if other not in done:
                message = f"a forward import: CHAPTERS of build_kernel.py does not have {other} before {chapter.name}"
                raise BuildError(chapter.path, line, message)
            if symbol not in done[other].defines:
                raise BuildError(chapter.path, line, f"{done[other].path} defines no {symbol}")
        done[chapter.name] = chapter


def folder_title(root: Path, folder: str = "") -> str:
    """Read the docstring of a folder's __init__.py, which does not ship and must hold no more."""
    path = f"src/{PACKAGE}/{folder}/__init__.py".replace("//", "/")
    tree = ast.parse(read_text(root / path))
    for node in tree.body:
        if not isinstance(node, ast.Expr):
            raise BuildError(path, node.lineno, "this file does not ship: leave a docstring in it and no more")
    title = ast.get_docstring(tree) or ""
    if folder and (not title or "\n" in title):
        raise BuildError(path, 1, "a folder has a docstring of one line, which becomes its title in the header")
    return title


def check_unique(chapters: Sequence[Chapter]) -> None:
    """Refuse a name with two meanings in the one namespace, or one that hides a builtin of Python."""
    owners = {"SOURCE_HASH": ("the builder's", "build_kernel.py")}
    for chapter in chapters:
        bound = [(line, name, f"{chapter.name}'s") for name, line in chapter.defines.items()]
        for line, module, name, alias in chapter.imports:
            whole = f"{module}.{name}" if name else module if alias else module.split(".")[0]
            bound.append((line, alias or name or whole, whole))
        for line, name, meaning in sorted(bound):
            if hasattr(builtins, name):
                raise BuildError(chapter.path, line, f"{name} would hide Python's own in every chapter: rename it")
            other, place = owners.setdefault(name, (meaning, f"{chapter.path}:{line}"))
            if other != meaning:
                raise BuildError(chapter.path, line, f"{name} is {meaning} here, but {other} at {place}: rename one")


def hash_sources(chapters: Sequence[Chapter]) -> str:
    """Return 16 hex digits that change with the text or the order of any chapter."""
    parts = "".join(f"{chapter.path}\n{len(chapter.text)}\n{chapter.text}" for chapter in chapters)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


# ---- writing -----------------------------------------------------------------------------------


def top_block(chapters: Sequence[Chapter]) -> str:
    """Write every import once, in ruff's order (standard library first, `import` before `from`), and SOURCE_HASH."""
    statements: dict[tuple, set[str]] = {}  # what one statement can import together
    for chapter in chapters:
        for _, module, name, alias in chapter.imports:
            third_party = module.split(".")[0] not in sys.stdlib_module_names
            statements.setdefault((third_party, bool(name), module, alias and name, alias), set()).add(name)
    sections: dict[bool, list[str]] = {False: [], True: []}
    for (third_party, is_from, module, _, alias), names in sorted(statements.items()):
        names = sorted(names, key=lambda n: (not (n.isupper() and len(n) > 1), not n[:1].isupper(), n))
        line = f"from {module} import {', '.join(names)}" if is_from else f"import {module}"
        if len(line) > LINE_LENGTH:
            line = f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"
        sections[third_party].append(line + (f" as {alias}" if alias else ""))
    blocks = ["\n".join(section) for section in sections.values() if section]
    return "\n\n".join([*blocks, f'SOURCE_HASH = "{hash_sources(chapters)}"'])


def header_lines(
    chapters: Sequence[Chapter], titles: Mapping[str, str], suffix: str, lines: Sequence[int] | None = None
) -> list[str]:
    """Write what the file is and holds, with the line of each chapter where it is known; its seal is still blank.

    Args:
        titles: of the folders.
    """
    rows = [f"{KERNEL_NAME}{suffix}: src/{PACKAGE} in one file. build_kernel.py writes it: change the sources instead."]
    folder = None
    for number, chapter in enumerate(chapters, 1):
        if folder != (folder := chapter.name.split(".")[0]):
            rows += ["", titles[folder]]
        description = chapter.docstring[0].partition(": ")[2] or chapter.docstring[0]  # "Name: what it is"
        where = f"line {lines[number - 1]:>5}  " if lines else ""
        row = f"{number:>4}  {chapter.name.split('.')[1]:<13}{where}{description}"
        if len(row) > LINE_LENGTH - 2:
            raise BuildError(chapter.path, 1, "the docstring's first line is too long for the header: shorten it")
        rows.append(row)
    return [*rows, "", f"sources {hash_sources(chapters)}, this file {'0' * 16}"]


def as_comment(lines: Iterable[str]) -> str:
    return "\n".join(f"# {line}".rstrip() for line in lines)


def chapter_texts(chapters: Sequence[Chapter]) -> Iterator[str]:
    """Put each chapter under its banner, its functions one blank line apart: chapters alone are two apart."""
    for number, chapter in enumerate(chapters, 1):
        code = re.sub("\n{3,}", "\n\n", chapter.code)
        if ast.dump(ast.parse(code)) != ast.dump(ast.parse(chapter.code)):
            raise BuildError(chapter.path, 1, "a string holds two blank lines, which would become one: write \\n there")
        rule = f"# ==== {number}. {chapter.path} ".ljust(LINE_LENGTH - 20, "=")
        yield f"{rule}\n{as_comment(chapter.docstring)}\n\n{code}".rstrip("\n")


def render_script(chapters: Sequence[Chapter], titles: Mapping[str, str]) -> str:
    """Write the kernel as a script, its chapters two blank lines apart."""
    top, texts = top_block(chapters), list(chapter_texts(chapters))
    here, lines = len(header_lines(chapters, titles, ".py")) + top.count("\n") + 5, []
    for text in texts:
        lines.append(here)
        here += text.count("\n") + 3
    header = as_comment(header_lines(chapters, titles, ".py", lines))
    return "\n\n\n".join([f"{header}\n\n{top}", *texts]) + "\n"


def render_notebook(chapters: Sequence[Chapter], titles: Mapping[str, str]) -> str:
    """Write the kernel as a Jupyter notebook: the header, the imports, then a cell a chapter."""
    names = ["imports", *(chapter.name.split(".")[1] for chapter in chapters)]
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    cells = [
        code | {"id": name, "source": text.splitlines(keepends=True)}
        for name, text in zip(names, [top_block(chapters), *chapter_texts(chapters)], strict=True)
    ]
    header = "\n".join(["```text", *header_lines(chapters, titles, ".ipynb"), "```"]).splitlines(keepends=True)
    notebook = {
        "cells": [{"cell_type": "markdown", "id": "header", "metadata": {}, "source": header}, *cells],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1) + "\n"


def seal_of(text: str) -> str:
    """Hash the whole file but for the seal itself, so that an edit by hand shows."""
    return hashlib.sha256(SEAL.sub("0" * 16, text, count=1).encode()).hexdigest()[:16]


def is_sealed(text: str) -> bool:
    found = SEAL.search(text)
    return bool(found) and found[0] == seal_of(text)


def build(root: Path, notebook: bool = False) -> str:
    """Flatten src/PACKAGE -> the text of the kernel."""
    folder_title(root)
    chapters = read_chapters(root, notebook)
    check_unique(chapters)
    titles = {
        folder: folder_title(root, folder) for folder in dict.fromkeys(one.name.split(".")[0] for one in chapters)
    }
    text = (render_notebook if notebook else render_script)(chapters, titles)
    if len(text) >= SIZE_LIMIT:  # it is ASCII: a character is a byte
        raise BuildError(f"src/{PACKAGE}", 1, f"a kernel of {len(text):,} bytes: Kaggle takes less than {SIZE_LIMIT:,}")
    return SEAL.sub(seal_of(text), text, count=1)


# ---- the command -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Build -> exit status 0: done, or up to date; 1: --check found a difference; 2: there can be no kernel."""
    parser = argparse.ArgumentParser(description=f"Flatten src/{PACKAGE} into the one file that Kaggle runs.")
    parser.add_argument("--check", action="store_true", help="exit 1 with a diff where kernel/ is stale; write nothing")
    parser.add_argument("--notebook", action="store_true", help="a Jupyter notebook, too")
    parser.add_argument("--force", action="store_true", help="overwrite a kernel that was edited by hand")
    options = parser.parse_args(arguments)
    script, notebook = (f"kernel/{KERNEL_NAME}{suffix}" for suffix in (".py", ".ipynb"))
    metadata = "kernel/kernel-metadata.json"
    try:
        check_metadata(metadata, read_text(root / metadata), KERNEL_NAME)
        texts = {script: build(root)}
        if options.notebook or (root / notebook).exists():
            texts[notebook] = build(root, notebook=True)
        if options.check:
            stale = [name for name, text in texts.items() if show_difference(root, name, text)]
            return int(bool(stale))
        for name in texts:
            old = read_text(root / name)
            if old and not is_sealed(old) and not options.force:
                raise BuildError(name, 1, f"edited by hand: take the change to src/{PACKAGE}, then build with --force")
        for name, text in texts.items():
            write_whole(root / name, text)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    for name, text in texts.items():
        if len(text) >= SIZE_WARNING:
            print(f"warning: {name} is close to Kaggle's limit of {SIZE_LIMIT:,} bytes", file=sys.stderr)
        print(f"{name}: {text.count(chr(10)):,} lines, {len(text):,} bytes")
    return 0


def show_difference(root: Path, name: str, text: str) -> bool:
    """Print how a file differs from what it should hold -> whether it does."""
    old = read_text(root / name)
    lines = (old.splitlines(keepends=True), text.splitlines(keepends=True))
    sys.stdout.writelines(difflib.unified_diff(*lines, f"{name} (there)", f"{name} (built)"))
    return old != text


if __name__ == "__main__":
    sys.exit(main())
