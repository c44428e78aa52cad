"""The kernel is brought up to date before it is used, and what stops that is said in the builder's words."""

import pytest

import build_kernel as builder
from nuclei.settings.config import BadInput
from nuclei_kit.kaggle.kernel import METADATA, ROOT, SCRIPT, refresh_kernel


def test_it_lies_where_the_builder_puts_it():
    assert SCRIPT.as_posix() == f"kernel/{builder.KERNEL_NAME}.py"
    assert (ROOT / METADATA).is_file()
    assert builder.ROOT == ROOT


def test_it_is_built_anew(tmp_path):
    (tmp_path / "build_kernel.py").write_text(f'import os\nos.mkdir("kernel")\nopen("{SCRIPT}", "w").write("new")\n')
    assert refresh_kernel(tmp_path).read_text() == "new"


@pytest.mark.parametrize(
    "program, message",
    [
        ('import sys\nsys.exit("src/nuclei/run/main.py:7: not ASCII")', r"src/nuclei/run/main\.py:7: not ASCII"),
        (None, r"build_kernel\.py is missing: .* in a clone"),
    ],
)
def test_what_stops_it_is_said(tmp_path, program, message):
    if program:
        (tmp_path / "build_kernel.py").write_text(program)
    with pytest.raises(BadInput, match=message):
        refresh_kernel(tmp_path)
