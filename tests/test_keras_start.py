"""Keras starts without the noise of its backend."""

import os
import subprocess
import sys

import pytest

from nuclei_kit.command.keras_start import silence


def test_silence_drops_what_goes_past_python_and_lets_errors_pass(capfd):
    os.write(2, b"before\n")
    with pytest.raises(ValueError, match="a bug"), silence():
        os.write(2, b"noise\n")
        raise ValueError("a bug")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


@pytest.mark.slow  # a process that imports Keras
def test_keras_starts_without_a_word():
    script = (
        "from nuclei_kit.command.keras_start import start_keras; start_keras(); import keras; print(keras.__name__)"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "keras\n", "")
