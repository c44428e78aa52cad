"""python -m nuclei and python -m nuclei_kit are the command nuclei."""

import subprocess
import sys
import tomllib

import pytest

from nuclei_kit.command.cli import main
from nuclei_kit.kaggle.kernel import ROOT


def test_the_command_is_the_command_lines_main():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"nuclei": f"{main.__module__}:{main.__name__}"}


@pytest.mark.parametrize("package", ["nuclei", "nuclei_kit"])
def test_a_package_is_the_command(package, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    done = subprocess.run([sys.executable, "-m", package, "score", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, capsys.readouterr().out)
    done = subprocess.run([sys.executable, "-m", package, "score", "gone.csv"], capture_output=True, text=True)
    assert done.returncode == main(["score", "gone.csv"]) == 2
    assert done.stderr == capsys.readouterr().err
