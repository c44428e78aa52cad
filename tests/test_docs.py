"""The documents: their links, anchors and paths lead somewhere, and the README stays a front page.

`make lint` runs this module, too. What is inside docs/ alone is checked once more by `make docs`, in strict mode.
"""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "src/*/weights/*.md") for path in ROOT.glob(pattern))
FENCE = re.compile(r"^([ \t]*)(```|~~~).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^\s)>]+)>?[^)]*\)|^\[[^\]]+\]:\s+(\S+)|(?:src|href)=\"([^\"]+)\"", re.MULTILINE)
FOLDERS = "benchmarks|docs|kernel|src|tests"
NAMED_PATH = re.compile(rf"`(?:python )?((?:{FOLDERS})/[\w./-]*)")


def anchors(text):
    """The anchors of a document's headings, as GitHub makes them."""
    seen = []
    for title in re.findall(r"^#+\s+(.+?)\s*#*$", FENCE.sub("", text), re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        seen.append(slug + (f"-{seen.count(slug)}" if slug in seen else ""))
    return seen


def dead_links(path):
    """The relative links of a document that lead nowhere."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    dead = []
    for target in ("".join(groups) for groups in LINK.findall(text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        there = path.parent / file if file else path
        missing = anchor and there.suffix == ".md" and there.is_file()
        if not there.exists() or (missing and anchor not in anchors(there.read_text(encoding="utf-8"))):
            dead.append(target)
    return dead


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert not dead_links(path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_that_are_named_are_there(path):
    named = NAMED_PATH.findall(path.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize(
    ("link", "is_dead"),
    [
        ("[a](other.md)", False),
        ("[a](other.md#two-words)", False),
        ("![a](folder/picture.png)", False),
        ("[a](#here-it-is)", False),
        ("[a](https://example.com/missing)", False),
        ("`[a](missing.md)`", False),
        ("```md\n[a](missing.md)\n```", False),
        ("[a](missing.md)", True),
        ("[a](other.md#missing)", True),
        ("[a](#missing)", True),
        ("![a](folder/missing.png)", True),
        ('<img src="missing.png">', True),
        ("[a]: missing.md", True),
    ],
)
def test_a_dead_link_is_found(tmp_path, link, is_dead):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/picture.png").touch()
    (tmp_path / "other.md").write_text("# Two words\n")
    (tmp_path / "one.md").write_text(f"# Here, it is\n\n{link}\n")
    assert bool(dead_links(tmp_path / "one.md")) == is_dead


def test_the_readme_is_a_front_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 130
    assert "\nmake run " in text and "\nmake test " in text


def test_the_readmes_scores_are_those_of_the_results():
    """docs/results.md is their home, and the model card's for the network that ships."""
    table = re.search(r"## What it scores\n\n(.*?)\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    homes = [ROOT / "docs/results.md", ROOT / "src/nuclei/weights/README.md"]
    home = " ".join(path.read_text(encoding="utf-8") for path in homes)
    said, known = (
        {f"{float(one):.3f}" for one in re.findall(r"0\.\d{2,}", text)}  # 0.632 stands for 0.6316
        for text in (table, home)
    )
    assert len(said) > 10 and said <= known


def test_the_tree_names_every_module():
    tree = re.search(r"```text\n(.*?)```", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    named, folders = set(), []
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        folders[depth:] = [name]
        if name.endswith(".py") and folders[0].startswith("src/"):
            named.add("".join(folders))
    there = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("src/nuclei*/**/*.py")}
    assert named == {path for path in there if not path.endswith("/__init__.py")}


def test_every_trial_is_linked():
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(trials/([\w-]+)\.patch\)", text)) == {p.stem for p in ROOT.glob("docs/trials/*.patch")}
