"""Config: what it refuses, and how it travels."""

import json
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from nuclei.settings.config import MODEL_NAMES, PRESETS, BadInput, Config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_configs_that_pass_their_own_rules(name):
    preset = PRESETS[name]
    assert preset == Config(**asdict(preset))
    assert preset.train_crop % preset.divisor == preset.tile_size % preset.divisor == 0


def test_cpu_preset_is_the_default():
    assert PRESETS["cpu"] == Config()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_holds_nothing_out_as_for_a_submission(name):
    assert (PRESETS[name].data_folds, PRESETS[name].data_tuning) == (0, 0)


def test_seed_preset_is_the_idea_that_the_kit_began_with():
    seed = PRESETS["seed"]
    assert (seed.model_name, seed.model_outputs, seed.train_loss) == ("one_hundred_layers", 1, "weighted_dice")


def test_the_sample_is_drawn_by_one_hand():
    """Its masks are as full in the test images as in those that train; Kaggle's are not."""
    hands = {name: preset.data_hand for name, preset in PRESETS.items()}
    assert hands == dict.fromkeys(PRESETS, "stage1_test") | {"sample": "stage1_train"}


@pytest.mark.parametrize(
    "settings, fragment",
    [
        ({"train_minutes": -1.0}, "negative"),
        ({"train_steps": -1}, "negative"),
        ({"train_minutes": float("nan")}, "minutes"),
        ({"train_minutes": 0.0}, "budget of 0"),
        ({"model_name": "resnet"}, "unet, one_hundred_layers"),
        ({"model_stem": 3}, "1, 2 or 4"),
        ({"model_width": 0}, "model_width starts at 1"),
        ({"model_depth": 0}, "model_depth starts at 1"),
        ({"train_batch": 0}, "train_batch starts at 1"),
        ({"train_crop": 0}, "train_crop starts at 1"),
        ({"train_crop": -256}, "train_crop starts at 1"),
        ({"train_checks": 0}, "train_checks starts at 1"),
        ({"model_outputs": 2}, "model_outputs must be 1 .* or 3"),
        ({"model_diameter": 0.0}, "model_diameter"),
        ({"model_zoom": -0.1}, "model_zoom"),
        ({"model_zoom": 1.1}, "model_zoom"),
        ({"target_sigma": 0.0}, "target_sigma"),
        ({"target_border": -1.0}, "target_border"),
        ({"target_rare": 0.5}, "target_rare"),
        ({"target_core": 1.0}, "target_core"),
        ({"train_warmup": 1.0}, "train_warmup"),
        ({"train_balance": 1.5}, "train_balance"),
        ({"train_seed": -1}, "train_seed"),
        ({"train_loss": "focal"}, "train_loss must be one of weighted_crossentropy_dice, weighted_dice, dice"),
        ({"train_crop": 250}, "train_crop must be a multiple of 32"),
        ({"tile_size": 250}, "tile_size must be a multiple of 32"),
        ({"model_depth": 6, "model_stem": 4, "train_crop": 128}, "multiple of 256"),
        ({"model_name": "one_hundred_layers", "train_crop": 48}, "multiple of 32"),
        ({"tile_size": 0}, "tile_overlap must be under"),
        ({"tile_overlap": 256}, "tile_overlap must be under"),
        ({"tile_overlap": -1}, "tile_overlap must be under"),
        ({"tile_pixels": 256**2 - 1}, "tile_pixels must hold"),
        ({"tta_views": 3}, "tta_views"),
        ({"tta_minutes": 0.0}, "tta_minutes"),
        ({"data_folds": 1}, "data_folds"),
        ({"data_folds": -1}, "data_folds"),
        ({"data_folds": 8, "data_fold": 8}, "data_fold must be under 8"),
        ({"data_fold": -1}, "data_fold must be under"),
        ({"data_folds": 0, "data_fold": 1}, "data_fold must be under 1"),
        ({"data_tuning": -0.1}, "data_tuning"),
        ({"data_tuning": 0.6}, "data_tuning"),
        ({"data_hand": "mine"}, "data_hand must be one of stage1_test, stage1_train"),
    ],
)
def test_what_cannot_be_run_is_refused(settings, fragment):
    with pytest.raises(BadInput, match=fragment) as caught:
        replace(Config(), **settings)
    assert "\n" not in str(caught.value)


def test_steps_alone_are_a_budget():
    assert replace(Config(), train_steps=3, train_minutes=0.0).train_steps == 3


def test_divisor_follows_the_network():
    assert replace(Config(), model_stem=1, model_depth=3).divisor == 8
    assert replace(Config(), model_stem=4, model_depth=2).divisor == 16
    assert replace(Config(), model_name="one_hundred_layers", model_stem=1, model_depth=1).divisor == 32
    assert set(MODEL_NAMES) == {"unet", "one_hundred_layers"}


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Config().train_seed = 1


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    assert Config(**json.loads(json.dumps(asdict(PRESETS[name])))) == PRESETS[name]
