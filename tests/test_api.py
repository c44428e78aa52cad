"""The examples of docs/api.md run as they stand there, and give what they promise."""

import re

import cv2
import numpy as np
import pytest
from drawn import draw_kind

from nuclei.prediction.metric import average_precision
from nuclei_kit.kaggle.kernel import ROOT
from nuclei_kit.sample.sample import draw_sample

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an image and a drawn competition -> the labels of the image."""
    image, truth = draw_kind("fluorescence-small", side=128)
    cv2.imwrite(str(tmp_path / "cells.png"), image[..., ::-1])
    draw_sample(tmp_path / "build/sample", n_train=6, n_test=1)
    monkeypatch.chdir(tmp_path)
    return truth


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_the_examples_run_and_keep_their_promises(folder):
    names = {}
    exec(compile(EXAMPLES[0], "docs/api.md", "exec"), names)
    assert names["labels"].dtype == np.int32 and len(names["confidences"]) == names["labels"].max()
    assert average_precision(folder, names["labels"]) > 0.5
    for example in EXAMPLES[1:]:
        exec(compile(example, "docs/api.md", "exec"), names)
    shape = names["truth"].shape
    assert names["targets"].shape == names["probs"].shape == (*shape, 3)
    assert names["weights"].shape == names["found"].shape == names["labels"].shape == shape
    assert len(names["sure"]) == len(names["table"]["area"]) == names["found"].max()
    assert len(names["train"].ids) + len(names["tuning"].ids) + len(names["held_out"].ids) == 6
    np.testing.assert_array_equal(names["same"], names["truth"])


def test_the_api_begins_with_a_segmenter():
    assert "Segmenter.load().segment(image)" in EXAMPLES[0]


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.splitlines()[-1][:40] for example in EXAMPLES])
def test_an_example_is_short(example):
    assert len([line for line in example.splitlines() if line]) <= 6
    assert max(map(len, example.splitlines())) <= 120
