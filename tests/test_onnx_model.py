"""ONNX: the network answers under ONNX Runtime as under Keras, whatever the size; its file says how to use it."""

import json

import keras
import numpy as np
import pytest
from drawn_runs import TINY

from nuclei.network.model import build_model
from nuclei.prediction.run_folder import save_run
from nuclei.prediction.watershed import HANDS
from nuclei.settings.config import BadInput
from nuclei.training.train import new_model
from nuclei_kit.command.cli import main
from nuclei_kit.exports import onnx_model
from nuclei_kit.exports.onnx_model import require

MOST_APART = 1e-5  # of a probability: what docs/formats.md states


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder whose normalisations are not what they began as, and its network."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = new_model(TINY)
    model.set_weights([w + rng.uniform(0, 0.3, w.shape) if w.ndim == 1 else w for w in model.get_weights()])
    save_run(folder, model, HANDS["stage1_train"], "nothing", TINY)
    return folder, model


def answers_apart(content, model, shape):
    """How far the answers of both to the same images of noise are apart, at most."""
    onnxruntime = pytest.importorskip("onnxruntime", reason='needs pip install -e ".[onnx]"')
    images = np.random.default_rng(1).random(shape, np.float32)
    (found,) = onnxruntime.InferenceSession(content).run(["probs"], {"image": images})
    expected = np.asarray(model.predict_on_batch(images))
    assert found.shape == expected.shape and found.std() > 0.01
    return np.abs(found - expected).max()


@pytest.mark.slow
def test_a_run_answers_as_keras_does_and_says_how_to_use_it(run, tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason='needs pip install -e ".[onnx]"')
    pytest.importorskip("tf2onnx", reason='needs pip install -e ".[onnx]"')
    folder, model = run
    assert main(["export", str(folder), "--onnx", "--out", str(tmp_path)]) == 0
    assert f"{tmp_path / 'model.onnx'}" in capsys.readouterr().out
    content = (tmp_path / "model.onnx").read_bytes()
    for shape in ((1, 64, 64, 3), (3, 32, 4 * TINY.divisor, 3), (2, 96, 160, 3)):
        assert answers_apart(content, model, shape) < MOST_APART
    written = onnx.load_from_string(content)
    assert [(one.domain, one.version) for one in written.opset_import if not one.domain] == [("", onnx_model.OPSET)]
    sizes = [size.dim_param or size.dim_value for size in written.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", "height", "width", 3]
    told = {one.key: one.value for one in written.metadata_props}
    assert "bright nuclei on a black background" in told["standardisation"] and "octaves" in told["zoom"]
    assert json.loads(told["size_multiple"]) == TINY.divisor
    assert json.loads(told["thresholds"])["small"]["seed"] == HANDS["stage1_train"]["small"].seed
    assert json.loads(told["channels"]) == ["interior", "border", "core"]


@pytest.mark.slow
@pytest.mark.parametrize("name, stem", [("unet", 4), ("one_hundred_layers", 1)])
def test_every_network_can_be_converted(name, stem, monkeypatch):
    pytest.importorskip("tf2onnx", reason='needs pip install -e ".[onnx]"')
    monkeypatch.setattr("nuclei.network.model.TIRAMISU_BLOCKS", (1, 2, 1))  # each kind of layer, in a tenth of the time
    monkeypatch.setattr("nuclei.network.model.TIRAMISU_BOTTLENECK", 2)
    model = build_model(name, width=2, depth=1, stem=stem, outputs=1)
    converted = onnx_model._convert(model)
    onnx_model._rename(converted.graph, "image", "probs")
    assert answers_apart(converted.SerializeToString(), model, (2, 64, 96, 3)) < MOST_APART


def test_what_is_missing_is_named_with_what_installs_it():
    with pytest.raises(BadInput, match=r'needs nothing_such and nor\.this: pip install -e "\.\[onnx\]"'):
        require("onnx", "json", "nothing_such", "nor.this")


def test_another_backend_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(BadInput, match="unset KERAS_BACKEND"):
        onnx_model.load_exact(tmp_path)
