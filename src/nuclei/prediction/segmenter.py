"""Segmenter: a trained network with its thresholds and settings.

labels, confidences = Segmenter.load().segment(image)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np

from nuclei.network.device import choose_precision, gpu_capability
from nuclei.network.parallel import predictor
from nuclei.prediction.inference import Network, Tiling, predict_probs
from nuclei.prediction.run_folder import find_run, parse_settings, read_settings
from nuclei.prediction.tta import VIEWS
from nuclei.prediction.watershed import Thresholds, find_confidences, find_instances
from nuclei.settings.config import BadInput, Config
from nuclei.training.train import new_model
from nuclei.training_data.kinds import LOOKS, image_kind, network_zoom, nucleus_diameter, standard_lut
from nuclei.training_data.targets import INTERIOR


@dataclass(frozen=True)
class Segmenter:
    """A trained network with what it takes to find nuclei in images."""

    network: Network  # float32 (N, H, W, 3) in 0..1, H and W multiples of config.divisor -> probs (N, H, W, 3 or 1)
    thresholds: Mapping[str, Thresholds]  # by look (see LOOKS in kinds), what makes nuclei of probs
    config: Config  # the run's settings, of which model_, tile_ and tta_ count here

    @classmethod
    def load(
        cls, run: str | Path | None = None, ready: Callable[[keras.Model], keras.Model] = lambda model: model
    ) -> "Segmenter":
        """Load the segmenter in a run's folder, or of a weights file in one; None stands for the one that ships.

        `ready` makes of its network what predicts.

        Raises:
            BadInput: a file is missing. (The command line looks into the files with more care.)
        """
        weights, settings = find_run(run)
        for needed in (weights, settings):
            if not needed.is_file():
                raise BadInput(f"{needed} is missing: name the folder of a finished run, as nuclei run leaves it")
        config, thresholds = parse_settings(read_settings(settings))
        set_up_device()
        model = new_model(config)
        model.load_weights(weights)
        return cls(predictor(ready(model)), thresholds, config)

    def segment(self, image: np.ndarray, views: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the nuclei of an image, uint8 (H, W, 3) RGB -> (labels int32 (H, W), confidences float64 (n,)).

        Args:
            views: how many dihedral views to average, in place of the config's.
        """
        return self.find(image, *self.look(image, views))

    def look(self, image: np.ndarray, views: int | None = None) -> tuple[np.ndarray, float]:
        """Do the network's part of `segment` -> (probs float32 (H, W, 3), the zoom that fits)."""
        zoom = self.fit_zoom(image)
        return self.predict(image, zoom, views), zoom

    def find(self, image: np.ndarray, probs: np.ndarray, zoom: float) -> tuple[np.ndarray, np.ndarray]:
        """Do the rest of `segment`, without the network."""
        labels = find_instances(probs, self.thresholds_for(image), zoom)
        return labels, find_confidences(probs, labels)

    def predict(
        self, image: np.ndarray, zoom: float, views: int | None = None, lut: np.ndarray | None = None
    ) -> np.ndarray:
        """Predict an image, uint8 (H, W, 3) -> probs float32 (H, W, 3); a part has the `standard_lut` of the whole."""
        c = self.config
        shown = VIEWS[: views or c.tta_views]
        seen = cv2.LUT(image, standard_lut(image) if lut is None else lut)
        fixed = keras.backend.backend() == "jax" or gpu_capability() is not None  # they compile for each shape
        tiling = Tiling(c.tile_size if fixed else c.divisor, c.tile_pixels, c.tile_overlap, fixed)
        return predict_probs(seen, self.network, tiling, shown, zoom)

    def thresholds_for(self, image: np.ndarray) -> Thresholds:
        """Tell what makes nuclei of an image, uint8 (H, W, 3), by how it looks."""
        return self.thresholds[LOOKS[image_kind(image)]]

    def zoom_for(self, diameter: float) -> float:
        """Choose the zoom for an image whose typical nucleus is `diameter` px wide: the one of training."""
        return network_zoom(diameter, self.config.model_diameter, self.config.model_zoom)

    def fit_zoom(self, image: np.ndarray) -> float:
        """Find the zoom that fits the image's typical nucleus by running the network at several.

        The network sees the image as it is and at half its size. At the wrong scale it sees the grains in a large
        nucleus, a clump of small ones as one, or it is unsure of what it sees. So the surer look is believed, and the
        size of its nuclei says how far it is from the scale that the network knows best. Where that is more than half
        an octave, one more look corrects it. Where nothing is found, twice the size is tried; after that, 1.
        """
        # Sizes as the training's masks have them. At the wrong scale no nucleus is sure, yet its size tells.
        unsure, lut = Thresholds(confidence=0.0), standard_lut(image)

        def look(zoom):
            """Tell how sure a look is (its nuclei's pixels, less those that could be either), and what zoom fits."""
            probs = self.predict(image, zoom, views=1, lut=lut)[::2, ::2]  # every other pixel tells a size as well
            labels = find_instances(probs, unsure, 2 * zoom)
            found = 2 * nucleus_diameter(labels)
            interior = probs[..., INTERIOR]
            doubt = 2 * np.minimum(interior, 1 - interior).sum()  # a pixel of p = 0.5 counts as one
            return float(interior[labels > 0].sum() - doubt), self.zoom_for(found) if found else None, zoom

        _, first, start = max(look(1.0), look(0.5), key=lambda seen: seen[0])
        if first is None:
            _, first, start = look(2.0)
        if first is None or abs(np.log2(first / start)) <= 0.5:
            return first or 1.0
        return look(first)[1] or first


def set_up_device() -> None:
    """Choose the precision; keep OpenCV to one thread, since the crops' threads and the network share the cores."""
    keras.config.set_image_data_format("channels_last")  # whatever the user's keras.json says
    keras.mixed_precision.set_global_policy(choose_precision())
    cv2.setNumThreads(1)
