"""bioimage.io package: a run's network as a zip that the tools of bioimage.io test and run."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nuclei.settings.config import Config
from nuclei.settings.files import write_whole
from nuclei.training_data.kinds import standardise
from nuclei_kit.exports.onnx_model import (
    CHANNELS,
    INPUT,
    ONNX_FILE,
    OPSET,
    OUTPUT,
    describe_use,
    encode_onnx,
    load_exact,
    require,
)
from nuclei_kit.report.pictures import overlay, write_png
from nuclei_kit.sample.sample import SAMPLE_LOOKS, draw_image

PACKAGE_FILE = "nuclei.bioimageio.zip"
TEST_SIDE = 256  # px of the drawn image that the package is tested with
AUTHORS = "The nuclei developers"
LICENCE = "MIT"
CITED = "Caicedo et al. 2019, Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl"
CITED_DOI = "10.1038/s41592-019-0612-7"
DESCRIPTION = "Interior, border and core of nuclei in microscope images of any stain, for a watershed to separate."


def export_package(run: Path, out: Path) -> Path:
    """Write a run's network to `out`/nuclei.bioimageio.zip -> its path.

    It holds the network as ONNX, a drawn image with Keras's answer to test it by, a cover, documentation, licence and
    citations.

    Raises:
        BadInput: see `load_exact`; also where a library is missing.
    """
    require("bioimageio", "onnx", "tf2onnx", "bioimageio.core")
    from bioimageio.spec import save_bioimageio_package

    model, segmenter = load_exact(run)
    image, _ = draw_image(SAMPLE_LOOKS[1], np.random.default_rng(0))
    image = np.ascontiguousarray(image[:TEST_SIDE, :TEST_SIDE])
    seen = standardise(image)[None].astype(np.float32) / 255  # (1, S, S, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ONNX_FILE).write_bytes(encode_onnx(model, segmenter))
        np.save(folder / "test_input.npy", seen)
        np.save(folder / "test_output.npy", np.asarray(segmenter.network(seen)))
        write_png(folder / "cover.png", np.hstack([image, overlay(image, segmenter.segment(image)[0])]))
        (folder / "README.md").write_text(_document(segmenter), encoding="utf-8")
        packed = save_bioimageio_package(_describe(folder, segmenter.config), output_path=folder / PACKAGE_FILE)
        write_whole(out / PACKAGE_FILE, packed.read_bytes())
    return out / PACKAGE_FILE


def _document(segmenter):
    """Write the package's README.md: what the network is for, and what stands before and behind it."""
    use = describe_use(segmenter)
    lines = "\n".join(f"- `{key}`: {one}" for key, one in use.items() if key not in ("standardisation", "zoom"))
    return f"""# Nuclei

{DESCRIPTION}

The network takes RGB in 0..1 that was standardised and zoomed, height and width multiples of {use["size_multiple"]}.
This package holds the network alone; `nuclei predict` of nuclei-kit does all of it.

## Before the network

Standardise: {use["standardisation"]}

Zoom: {use["zoom"]}

## Behind it

A watershed floods the interior from seeds, core * (1 - border), by the thresholds below; they go by how an image looks.

{lines}

## Validation

The kit scores a run by the metric of the 2018 Data Science Bowl on images that it was not trained on: `nuclei cv`.
This is not a medical device.
"""


def _describe(folder: Path, config: Config) -> Any:
    """Describe the package whose files lie in `folder` -> ModelDescr."""
    from bioimageio.spec.model import v0_5 as spec

    def size(axis):
        return spec.SizeReference(tensor_id=spec.TensorId(INPUT), axis_id=spec.AxisId(axis))

    def file(name):
        return spec.FileDescr(source=folder / name)

    free = spec.ParameterizedSize(min=2 * config.divisor, step=config.divisor)
    unit = spec.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0))
    image = spec.InputTensorDescr(
        id=spec.TensorId(INPUT),
        axes=[
            spec.BatchAxis(),
            *(spec.SpaceInputAxis(id=spec.AxisId(axis), size=free) for axis in "yx"),
            spec.ChannelAxis(channel_names=[spec.Identifier(one) for one in ("red", "green", "blue")]),
        ],
        data=unit,
        test_tensor=file("test_input.npy"),
    )
    probs = spec.OutputTensorDescr(
        id=spec.TensorId(OUTPUT),
        axes=[
            spec.BatchAxis(),
            *(spec.SpaceOutputAxis(id=spec.AxisId(axis), size=size(axis)) for axis in "yx"),
            spec.ChannelAxis(channel_names=[spec.Identifier(one) for one in CHANNELS[: config.model_outputs]]),
        ],
        data=unit,
        test_tensor=file("test_output.npy"),
    )
    network = spec.OnnxWeightsDescr(source=folder / ONNX_FILE, opset_version=OPSET)
    return spec.ModelDescr(
        name=f"Nuclei {config.model_name}",
        description=DESCRIPTION,
        authors=[spec.Author(name=AUTHORS)],
        cite=[spec.CiteEntry(text=CITED, doi=spec.Doi(CITED_DOI))],
        license=spec.LicenseId(LICENCE),
        tags=["nuclei", "instance-segmentation", "2d", "fluorescence-light-microscopy", "histology"],
        documentation=file("README.md"),
        covers=[file("cover.png")],
        inputs=[image],
        outputs=[probs],
        weights=spec.WeightsDescr(onnx=network),
    )
