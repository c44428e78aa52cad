"""Release: a network in half the bytes answers as it did, and says so on the command line."""

import json

import numpy as np
import pytest
from drawn_runs import TINY

from nuclei.prediction.run_folder import save_run
from nuclei.prediction.watershed import HANDS
from nuclei.training.train import new_model
from nuclei_kit.files.release import main, release_run
from nuclei_kit.files.runs import load_run


@pytest.fixture
def model():
    """A network that learnt nothing, and has a variance of more than float16 holds."""
    model = new_model(TINY)
    variance = next(weight for weight in model.weights if weight.path.endswith("moving_variance"))
    variance.assign(variance + 1e6)
    return model


@pytest.mark.parametrize("named", ["run", "run/model.weights.h5"])
def test_a_released_network_is_the_run_s_but_for_rounding(model, tmp_path, named):
    run, folder = tmp_path / "run", tmp_path / "released"
    run.mkdir()
    save_run(run, model, HANDS["stage1_test"], "a drawn set", TINY)
    size = release_run(tmp_path / named, folder)
    assert size == (folder / "model.weights.h5").stat().st_size
    assert (folder / "config.json").read_bytes() == (run / "config.json").read_bytes()
    released = new_model(TINY)
    released.load_weights(folder / "model.weights.h5")
    for one, other in zip(model.weights, released.weights, strict=True):
        rounding = 2**-11 if len(one.shape) > 1 else 0  # float16 has 11 bits
        np.testing.assert_allclose(one, other, rtol=rounding, atol=1e-7 * (rounding > 0))
    assert load_run(folder).thresholds == HANDS["stage1_test"]


def test_the_command_says_what_it_wrote_or_what_is_wrong(model, tmp_path, capsys):
    save_run(tmp_path, model, HANDS["stage1_train"], "a drawn set", TINY)
    assert main([str(tmp_path), str(tmp_path / "released")]) == 0
    assert f"{tmp_path / 'released'} holds the network" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "released")]) == 2
    assert "nowhere" in capsys.readouterr().err
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"config": {}}))
    assert main([str(tmp_path), str(tmp_path / "released")]) == 2
    assert "config.json" in capsys.readouterr().err
