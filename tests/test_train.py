"""Train: a small training twice, and what becomes of it when something breaks."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
from drawn import draw_disc_set

from nuclei.network import parallel
from nuclei.prediction.watershed import Thresholds
from nuclei.settings.config import BadInput, Config
from nuclei.training import train, training_log
from nuclei.training.schedule import learning_rate
from nuclei.training.train import new_model, train_model
from nuclei.training_data.images import ImageSet

TINY = Config(
    model_width=4,
    model_depth=2,
    model_stem=1,
    model_diameter=16.0,
    train_steps=24,
    train_batch=2,
    train_rate=1e-2,
    train_crop=64,
    train_checks=2,
    tile_size=64,
    tile_overlap=16,
    tta_views=1,
)


NOTHING = ImageSet([], [], [], [])


def train_tiny(folder, tuning=NOTHING, on_better=lambda *_: None, **settings):
    return train_model(replace(TINY, **settings), draw_disc_set(6), tuning, folder, on_better)


def read_log(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with tuning images -> (its folder, what train_model returned)."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_tiny(folder, draw_disc_set(2, seed=1))


# ---- training ----------------------------------------------------------------------------------


def test_a_training_leaves_its_log_and_its_weights(trained):
    folder, (_, thresholds, crops) = trained
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "log.csv", "model.weights.h5"]
    rows = read_log(folder)
    assert list(rows[0]) == ["step", "seconds", "learning_rate", "loss", "tuning_score"]
    assert [int(row["step"]) for row in rows] == [12, 24]  # the checks
    assert all(0 <= float(row["tuning_score"]) <= 1 for row in rows)
    assert float(rows[0]["learning_rate"]) > float(rows[1]["learning_rate"]) > 0
    assert isinstance(thresholds, Thresholds)
    assert crops == 24 * TINY.train_batch


def test_the_loss_falls(trained):
    losses = [float(row["loss"]) for row in read_log(trained[0])]
    assert losses[-1] < losses[0] - 0.05


def test_the_file_holds_the_weights_of_the_model(trained):
    folder, (model, _, _) = trained
    again = new_model(TINY)
    again.load_weights(folder / "model.weights.h5")
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_best_weights_are_kept_not_the_last(tmp_path, monkeypatch, eagerly):
    """Scored 0.5 at the first check and 0.2 at the last, the first check's weights stay, and are the only news."""
    scores, seen, news = iter([0.5, 0.2]), [], []

    def score(images, network, thresholds, config):
        seen.append(network.args[0].get_weights())
        return next(scores)

    monkeypatch.setattr(train, "score_set", score)
    model, _, _ = train_tiny(tmp_path, draw_disc_set(1), lambda *told: news.append(told), train_steps=4)
    ((network, thresholds),) = news
    assert network.args == (model,)
    assert thresholds == Thresholds()
    for kept, best in zip(model.get_weights(), seen[0], strict=True):
        np.testing.assert_array_equal(kept, best)
    assert any((one != other).any() for one, other in zip(*seen, strict=True))


def test_the_end_is_no_news(tmp_path, eagerly):
    """What follows is the prediction with tuned thresholds."""
    train_tiny(tmp_path, draw_disc_set(1), lambda *_: pytest.fail("told"), train_steps=2, train_checks=1)


def test_the_same_seed_gives_the_same_weights(tmp_path, eagerly):
    """And without tuning images the thresholds are the default ones."""
    trainings = []
    for name in ("one", "again"):
        (tmp_path / name).mkdir()
        model, thresholds, _ = train_tiny(tmp_path / name, train_steps=3, train_seed=3)
        assert thresholds == Thresholds()
        assert [row["tuning_score"] for row in read_log(tmp_path / name)] == [""]
        trainings.append(model.get_weights())
    for one, again in zip(*trainings, strict=True):
        np.testing.assert_array_equal(one, again)
    keras.utils.set_random_seed(3)
    fresh = new_model(TINY).get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(trainings[0], fresh, strict=True)) > 1e-3  # it did move


def test_mixed_precision_trains(tmp_path, eagerly):
    """float16 brings Keras's loss scaling, which wraps the optimiser whose rate the schedule sets."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    model, _, _ = train_tiny(tmp_path, train_steps=3)
    assert np.isfinite(float(read_log(tmp_path)[-1]["loss"]))
    assert all(np.isfinite(one).all() for one in model.get_weights())
    assert float(model.optimizer.learning_rate) == pytest.approx(float(read_log(tmp_path)[-1]["learning_rate"]), 0.01)


# ---- training that was cut off -----------------------------------------------------------------


@pytest.fixture
def cut_off(monkeypatch):
    """Ends the training in the middle of a step, or of a check, as a kill would; before it, each step is saved."""
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)

    def cut(name, calls):
        original, left = getattr(train, name), [calls]

        def limited(*arguments):
            result = original(*arguments)  # what it did is lost
            left[0] -= 1
            if not left[0]:
                monkeypatch.setattr(train, name, original)
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(train, name, limited)

    return cut


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


# In the middle of: the first step, a later one, a check, the choice of thresholds.
CUTS = [("train_step", 1), ("train_step", 4), ("score_set", 1), ("tune_thresholds", 1)]


def small_network(config):
    """All that a network can keep from step to step: weights, averages of statistics, and dropout's random state."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x = keras.layers.Conv2D(3, 1)(keras.layers.Dropout(0.2)(x))
    return keras.Model(inputs, keras.layers.Activation("sigmoid", dtype="float32")(x))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_training_cut_off_again_and_again_ends_as_an_unbroken_one(tmp_path, cut_off, eagerly, monkeypatch, policy):
    keras.mixed_precision.set_global_policy(policy)  # float16 has the state of its loss scaling, too
    monkeypatch.setattr(train, "new_model", small_network)
    settings = {"tuning": draw_disc_set(1, seed=1), "train_steps": 6}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    model, thresholds, crops = train_tiny(tmp_path / "one", **settings)
    for cut in CUTS:
        cut_off(*cut)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "other", **settings)
    resumed, *rest = train_tiny(tmp_path / "other", **settings)
    assert rest == [thresholds, crops]
    for variables in (lambda m: m.variables, lambda m: m.optimizer.variables):
        for one, other in zip(variables(model), variables(resumed), strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
    assert without_seconds(read_log(tmp_path / "one")) == without_seconds(read_log(tmp_path / "other"))


def test_a_training_that_is_over_only_brings_its_files_back(tmp_path, eagerly, monkeypatch):
    settings = {"tuning": draw_disc_set(1), "train_steps": 2, "train_checks": 1}
    model, *rest = train_tiny(tmp_path, **settings)
    log = read_log(tmp_path)
    for name in ("log.csv", "model.weights.h5"):
        (tmp_path / name).unlink()
    for name in ("train_step", "score_set", "tune_thresholds"):
        monkeypatch.setattr(train, name, lambda *_, name=name: pytest.fail(name))
    again, *same = train_tiny(tmp_path, **settings)
    assert same == rest
    assert read_log(tmp_path) == log
    file = new_model(TINY)
    file.load_weights(tmp_path / "model.weights.h5")
    for one, other, third in zip(model.get_weights(), again.get_weights(), file.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


@pytest.mark.parametrize(
    "settings, change",
    [
        ({"train_steps": 3}, "train_steps was 2, is 3"),
        ({"train_seed": 1, "tta_views": 4}, "train_seed was 0, is 1; tta_views was 1, is 4|tta_views .*; train_seed"),
        ({"tuning": draw_disc_set(1)}, "tuning was [0-9a-f]{16}, is [0-9a-f]{16}"),
    ],
)
def test_checkpoints_of_other_settings_are_refused(tmp_path, eagerly, settings, change):
    train_tiny(tmp_path, train_steps=2)
    with pytest.raises(BadInput, match=rf"unfinished run with other settings \(({change})\).* delete it"):
        train_tiny(tmp_path, **{"train_steps": 2, **settings})


# ---- training that goes wrong ------------------------------------------------------------------


def lose(monkeypatch, losses):
    """Has the steps with these numbers, from 1 on, spoil the weights and say another loss."""
    original, calls = train.train_step, [0]

    def step(model, x, y, parts):
        calls[0] += 1
        loss = original(model, x, y, parts)
        if calls[0] in losses:
            for variable in model.trainable_variables:
                variable.assign(variable * np.nan)
            return losses[calls[0]]
        return loss

    monkeypatch.setattr(train, "train_step", step)


@pytest.mark.parametrize("loss", [np.nan, np.inf, 0.7])
@pytest.mark.parametrize("step", [2, 4])
def test_a_lost_training_goes_back_and_on_at_half_the_rate(tmp_path, monkeypatch, eagerly, caplog, loss, step):
    """A loss of 0.7 hides the spoilt weights until they would be saved, or the next loss shows them."""
    lose(monkeypatch, {step: loss})
    model, _, _ = train_tiny(tmp_path, train_steps=4)
    (warning,) = [message for message in caplog.messages if "half the rate" in message]
    assert "back to the last good weights" in warning
    assert all(np.isfinite(one).all() for one in model.get_weights())
    if step == 2:
        full = learning_rate(3 / 4, TINY.train_rate, TINY.train_warmup)
        assert float(read_log(tmp_path)[-1]["learning_rate"]) == pytest.approx(full / 2, rel=0.01)


def test_an_exploding_loss_counts_as_lost(tmp_path, monkeypatch, eagerly, caplog):
    monkeypatch.setattr(training_log, "EPOCH", 2)
    lose(monkeypatch, {3: train.EXPLODED + 1})
    train_tiny(tmp_path, train_steps=4)
    assert "the loss of step 3 was 6 at a learning rate of" in caplog.text


def test_a_training_that_is_lost_too_often_ends_with_the_reason(tmp_path, monkeypatch, eagerly):
    lose(monkeypatch, dict.fromkeys(range(1, 9), np.nan))
    with pytest.raises(BadInput, match=r"the loss of step 4 was nan .* did not help 3 times: lower train_rate"):
        train_tiny(tmp_path, train_steps=8)


class ResourceExhaustedError(Exception):
    """As TensorFlow's; the texts of JAX and PyTorch are in the table below."""


FULL = [ResourceExhaustedError("OOM"), RuntimeError("RESOURCE_EXHAUSTED: 3 GB"), MemoryError("CUDA out of memory")]


@pytest.mark.parametrize("error", FULL, ids=["tensorflow", "jax", "torch"])
def test_out_of_memory_cuts_the_batch_and_keeps_the_step(tmp_path, monkeypatch, eagerly, caplog, error):
    """Two crops at once are too many: twice one crop, then, and as many steps of the optimiser as ever."""
    original = parallel._train_part

    def small_part(model, x, y):
        if len(x) > 1:
            raise error
        return original(model, x, y)

    monkeypatch.setattr(parallel, "_train_part", small_part)
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    model, _, _ = train_tiny(tmp_path, train_steps=3)
    assert "2 times 1 crops" in caplog.text
    assert int(model.optimizer.iterations) == 3
    again, _, _ = train_tiny(tmp_path, train_steps=3)  # in parts from the start
    assert model.optimizer.gradient_accumulation_steps == again.optimizer.gradient_accumulation_steps == 2


def test_a_single_crop_that_does_not_fit_is_an_error(tmp_path, monkeypatch, eagerly):
    def fail(*_):
        raise FULL[0]

    monkeypatch.setattr(parallel, "_train_part", fail)
    with pytest.raises(ResourceExhaustedError):
        train_tiny(tmp_path, train_steps=3)


def test_another_error_is_raised(tmp_path, monkeypatch, eagerly):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(parallel, "_train_part", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train_tiny(tmp_path, train_steps=3)
