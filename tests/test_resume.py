"""Kill -9: a run that is killed and started again leaves what an undisturbed one leaves; more of it in benchmarks."""

import sys

from benchmarks.stress import resume


def test_a_killed_run_goes_on(monkeypatch, capsys):
    """One kill, late in the run; benchmarks/stress/resume.py does fifty, anywhere."""
    monkeypatch.setattr(sys, "argv", ["resume.py", "--kills", "1", "--steps", "12"])
    assert resume.main() == 0
    assert "kills: 1" in capsys.readouterr().out
