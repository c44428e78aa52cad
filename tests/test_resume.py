"""A run that is killed resumes, to the same submission: the benchmark's own check, once."""

import sys

import pytest

from benchmarks.stress import resume


@pytest.mark.slow
def test_a_killed_run_resumes(monkeypatch, capsys):
    """One kill, late in the run; benchmarks/stress/resume.py does fifty, anywhere."""
    monkeypatch.setattr(sys, "argv", ["resume.py", "--kills", "1", "--steps", "12"])
    assert resume.main() == 0
    assert "kills: 1" in capsys.readouterr().out
