"""Config: every setting of a run in one flat, frozen dataclass, and the presets."""

import logging
from dataclasses import dataclass

log = logging.getLogger("nuclei")
MODEL_NAMES = ("unet", "one_hundred_layers")
HAND_NAMES = ("stage1_test", "stage1_train")
LOSS_NAMES = ("weighted_crossentropy_dice", "weighted_dice", "dice")
# Minutes to train and to predict: Kaggle's 12 hours, less half an hour to start and to read.
BUDGET_MINUTES = 690.0


class BadInput(ValueError):
    """Something from outside that cannot be used: one sentence that names the file and says what to do."""


@dataclass(frozen=True)
class Config:
    """The prefixes are its namespaces; the unit or range stands behind each field."""

    # The data
    data_folds: int = 0  # 0: nothing is held out, as for a submission; 2..: fold `data_fold` is held out for the report
    data_fold: int = 0  # 0..data_folds - 1
    data_tuning: float = 0.0  # share of the other images that chooses thresholds: the validation split
    data_hand: str = "stage1_test"  # whose masks the thresholds suit where no tuning images choose them

    # The network
    model_name: str = "unet"  # "unet" or "one_hundred_layers"
    model_width: int = 32  # unet: filters at the first level; one_hundred_layers: growth rate
    model_depth: int = 4  # unet: how often it halves the image; one_hundred_layers does 5 times
    model_stem: int = 2  # unet: the stride of its first convolution, 1, 2 or 4; one_hundred_layers has none
    model_outputs: int = 3  # 3: interior, border and core; 1: interior alone
    model_diameter: float = 32.0  # px, the width of nuclei that the network sees as they are
    model_zoom: float = 0.5  # 0..1, how far, in octaves, other nuclei are zoomed towards that width: 1 is all the way

    # Targets and pixel weights
    target_border: float = 5.0  # w0 of the U-Net paper: the weight added between two touching nuclei
    target_sigma: float = 4.0  # px, sigma of the U-Net paper: how far apart nuclei still count as touching
    target_rare: float = 3.0  # 1.., the most that a pixel of the rarer class weighs; 1 switches it off
    target_core: float = 0.45  # 0..1, the core is where the distance to the edge exceeds this share of the largest

    # Training
    train_minutes: float = 25.0  # minutes of wall clock for the whole training, tuning included
    train_steps: int = 0  # steps; above 0 they count instead of the minutes
    train_loss: str = "weighted_crossentropy_dice"  # one of LOSS_NAMES
    train_batch: int = 4  # crops a step
    train_crop: int = 256  # px, a multiple of what the network divides by
    train_rate: float = 6e-3  # peak learning rate of Muon; AdamW, beside it, has a tenth
    train_decay: float = 1e-2  # weight decay of both
    train_warmup: float = 0.05  # share of the schedule in which the rate rises
    train_zoom: float = 0.7  # octaves, how far the scale of a crop strays from the typical, both ways
    train_balance: float = 0.6  # 0..1, 0 draws images alike, 1 draws kinds alike
    train_checks: int = 2  # how often the tuning images are scored for the log, evenly spread over the schedule
    train_seed: int = 0

    # Prediction
    tile_pixels: int = 2**18  # px in one call of the network; an image that has more is cut into tiles
    tile_overlap: int = 64  # px shared by neighbouring tiles, blended
    tile_size: int = 256  # px, the tiles' side where the backend compiles for one shape; a multiple of the divisor
    tta_views: int = 4  # 1, 2, 4 or 8 of the dihedral views
    tta_minutes: float = 180.0  # minutes of wall clock for the test images; one not reached keeps what one view found

    def __post_init__(self) -> None:
        """Refuse what cannot be run, before anything is read or trained."""
        not_negative = ("train_steps", "train_minutes", "train_seed", "target_border", "target_core", "train_warmup")
        from_one = ("model_width", "model_depth", "train_batch", "train_crop", "train_checks")
        above_zero, shares = ("model_diameter", "target_sigma", "tta_minutes"), ("model_zoom", "train_balance")
        for rule, message in (
            *((getattr(self, name) >= 0, f"{name} cannot be negative") for name in not_negative),
            *((getattr(self, name) >= 1, f"{name} starts at 1") for name in (*from_one, "target_rare")),
            *((getattr(self, name) > 0, f"{name} must be above 0") for name in above_zero),
            *((0 <= getattr(self, name) <= 1, f"{name} must be in 0..1") for name in shares),
            (self.train_steps or self.train_minutes, "a budget of 0 trains nothing: give --minutes or --steps above 0"),
            (self.model_name in MODEL_NAMES, f"model_name must be one of {', '.join(MODEL_NAMES)}"),
            (self.model_stem in (1, 2, 4), "model_stem must be 1, 2 or 4"),
            (self.model_outputs in (1, 3), "model_outputs must be 1 (interior) or 3 (interior, border, core)"),
            (self.data_hand in HAND_NAMES, f"data_hand must be one of {', '.join(HAND_NAMES)}"),
            (self.train_loss in LOSS_NAMES, f"train_loss must be one of {', '.join(LOSS_NAMES)}"),
            (max(self.target_core, self.train_warmup) < 1, "target_core and train_warmup must be in 0..1, 1 excluded"),
            (self.train_crop % self.divisor == 0, f"train_crop must be a multiple of {self.divisor}"),
            (self.tile_size % self.divisor == 0, f"tile_size must be a multiple of {self.divisor}"),
            (0 <= self.tile_overlap < self.tile_size, "tile_overlap must be under tile_size"),
            (self.tile_pixels >= self.tile_size**2, "tile_pixels must hold a tile of tile_size"),
            (self.tta_views in (1, 2, 4, 8), "tta_views must be 1, 2, 4 or 8"),
            (self.data_folds == 0 or self.data_folds >= 2, "data_folds must be 0 or at least 2"),
            (0 <= self.data_fold < max(self.data_folds, 1), f"data_fold must be under {max(self.data_folds, 1)}"),
            (0 <= self.data_tuning <= 0.5, "data_tuning must be in 0..0.5"),
        ):
            if not rule:
                raise BadInput(f"settings: {message}")

    @property
    def divisor(self) -> int:
        """Tell what the height and the width of the network's input must be multiples of."""
        return 32 if self.model_name == "one_hundred_layers" else self.model_stem * 2**self.model_depth

    @property
    def most_minutes(self) -> float:
        """Tell how long the training may take on Kaggle, so that time to predict is left."""
        return BUDGET_MINUTES - self.tta_minutes


# docs/results.md has what each costs and scores. The sample's rate is high, since its steps are few. `seed` is the idea
# that this kit began with: foreground alone, by an overlap loss, separated by a watershed on distance.
_SAMPLE: dict = {"model_width": 16, "model_depth": 3, "train_crop": 128, "train_batch": 8}
_SAMPLE |= {"train_minutes": 1.2, "train_rate": 2e-2, "data_hand": "stage1_train"}
_LAYERS: dict = {"model_name": "one_hundred_layers", "model_width": 16}
_KAGGLE: dict = _LAYERS | {"train_minutes": 480.0, "train_rate": 1e-2, "train_batch": 8, "train_checks": 4}
_KAGGLE |= {"tile_pixels": 8 * 256**2}
_SEED: dict = _LAYERS | {"model_outputs": 1, "train_loss": "weighted_dice", "train_crop": 128}
PRESETS = {"sample": Config(**_SAMPLE), "cpu": Config(), "kaggle": Config(**_KAGGLE), "seed": Config(**_SEED)}
