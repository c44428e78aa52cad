"""ONNX model: a run's network as one file that ONNX Runtime runs anywhere, with all that it takes to use it.

Image sizes and batches are free. What stands before the network and behind it is in the file's metadata.
"""

import inspect
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import keras

from nuclei.prediction.run_folder import find_run
from nuclei.prediction.segmenter import Segmenter
from nuclei.settings.config import BadInput
from nuclei.settings.files import write_whole
from nuclei.training.train import new_model
from nuclei.training_data.kinds import network_zoom, standardise
from nuclei_kit.files.runs import load_run

ONNX_FILE = "model.onnx"
OPSET = 17  # of ONNX 1.12, from 2022: ONNX Runtime 1.12 and later run it
INPUT, OUTPUT = "image", "probs"
CHANNELS = ("interior", "border", "core")


def export_onnx(run: Path, out: Path) -> Path:
    """Write a run's network to `out`/model.onnx -> its path.

    Raises:
        BadInput: see `load_exact`.
    """
    require("onnx", "onnx", "tf2onnx")
    write_whole(out / ONNX_FILE, encode_onnx(*load_exact(run)))
    return out / ONNX_FILE


def load_exact(run: Path) -> tuple[keras.Model, Segmenter]:
    """Load a run as `load_run` does, its network in float32 on any machine -> (the network, the Segmenter).

    Raises:
        BadInput: see `load_run`; also where Keras does not run on TensorFlow, which alone writes ONNX of any size.
    """
    if keras.backend.backend() != "tensorflow":
        raise BadInput("ONNX is written by TensorFlow: unset KERAS_BACKEND")
    segmenter = load_run(run)
    keras.mixed_precision.set_global_policy("float32")
    model = new_model(segmenter.config)
    model.load_weights(find_run(run)[0])
    return model, replace(segmenter, network=model.predict_on_batch)


def encode_onnx(model: keras.Model, segmenter: Segmenter) -> bytes:
    """Encode a network -> the bytes of an ONNX file.

    It takes float32 (batch, height, width, 3) in 0..1 and gives float32 (batch, height, width, 3 or 1) in 0..1, as
    Keras's does. Its metadata are those of `describe_use`.
    """
    import onnx

    converted = _convert(model)
    _rename(converted.graph, INPUT, OUTPUT)
    onnx.helper.set_model_props(converted, describe_use(segmenter))
    converted.producer_name = "nuclei-kit"
    onnx.checker.check_model(converted)
    return converted.SerializeToString()


def require(extra: str, *modules: str) -> None:
    """Refuse with one sentence where a module of an extra is not installed."""
    missing = [name for name in modules if not _is_there(name)]
    if missing:
        raise BadInput(f'this needs {" and ".join(missing)}: pip install -e ".[{extra}]"')


def _is_there(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it lies in is missing
        return False


def describe_use(segmenter: Segmenter) -> dict[str, str]:
    """Say what to do before and after the network -> {key: a text, or numbers and lists as JSON}."""
    c = segmenter.config
    thresholds = {look: asdict(one) for look, one in segmenter.thresholds.items()}
    use: Mapping[str, object] = {
        "standardisation": inspect.cleandoc(standardise.__doc__ or ""),
        "zoom": inspect.cleandoc(network_zoom.__doc__ or ""),
        "zoom_target": c.model_diameter,
        "zoom_share": c.model_zoom,
        "size_multiple": c.divisor,
        "channels": CHANNELS[: c.model_outputs],
        "thresholds": thresholds,
        "source": "nuclei.training_data.kinds.standardise and network_zoom, nuclei.prediction.watershed.find_instances",
    }
    return {key: one if isinstance(one, str) else json.dumps(one) for key, one in use.items()}


def _convert(model):
    """Convert a Keras model -> an onnx.ModelProto, its batch, height and width free."""
    import onnx

    signature = [keras.InputSpec(dtype="float32", shape=(None, None, None, 3), name=INPUT)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # tf2onnx and NumPy, between themselves
        path = str(Path(folder) / ONNX_FILE)
        model.export(path, format="onnx", verbose=False, input_signature=signature, opset_version=OPSET)
        return onnx.load(path)


def _rename(graph, first, last):
    """Name a graph's one input, its one output and their sizes."""
    names = {graph.input[0].name: first, graph.output[0].name: last}
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for value in (graph.input[0], graph.output[0]):
        value.name = names[value.name]
        for size, name in zip(value.type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False):
            size.dim_param = name
