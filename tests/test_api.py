"""The examples of docs/api.md run as they stand there, and give what they promise."""

import re

import numpy as np
import pytest

from nuclei.prediction.watershed import Thresholds
from nuclei.run.main import save_config
from nuclei.settings.config import Config
from nuclei.settings.files import CONFIG_FILE, WEIGHTS_FILE
from nuclei.training.train import new_model, save_weights
from nuclei_kit.kaggle.kernel import ROOT
from nuclei_kit.sample.sample import draw_sample

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working folder with a drawn competition and a run, of a network that has learnt nothing."""
    draw_sample(tmp_path / "build/sample", n_train=6, n_test=1)
    config = Config(model_width=2, model_depth=1, tile_size=64, tile_overlap=16, tta_views=1)
    (tmp_path / "submission").mkdir()
    save_weights(new_model(config), tmp_path / "submission" / WEIGHTS_FILE)
    save_config(tmp_path / "submission" / CONFIG_FILE, config, Thresholds())
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("clone", "eagerly")
def test_the_examples_run_and_keep_their_promises():
    names = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/api.md", "exec"), names)
    shape = names["labels"].shape
    assert names["targets"].shape == names["probs"].shape == (*shape, 3)
    assert names["weights"].shape == names["found"].shape == shape
    assert len(names["sure"]) == names["found"].max()
    assert len(names["train"].ids) + len(names["tuning"].ids) + len(names["held_out"].ids) == 6
    np.testing.assert_array_equal(names["same"], names["labels"])


def test_an_example_is_five_lines_or_so():
    assert len(EXAMPLES) == 9
    for example in EXAMPLES:
        assert len([line for line in example.splitlines() if line]) <= 6
        assert max(map(len, example.splitlines())) <= 120
