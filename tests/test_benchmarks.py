"""Benchmarks: each answers --help, so that none breaks unseen when what it imports changes."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").rglob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_says_how_it_is_called(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(script.parent)  # as Python does with a script's folder
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f".venv/bin/python {script.relative_to(ROOT)}" in capsys.readouterr().out


def test_all_kinds_are_found():
    assert {path.parent.name for path in SCRIPTS} == {"benchmarks", "stress", "studies"}
