"""Train: the schedule, a small training twice, and thresholds that never make things worse."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest

from nuclei import train
from nuclei.config import Config
from nuclei.data import ImageSet
from nuclei.metric import average_precision
from nuclei.train import learning_rate, new_model, segment_probs, train_model, tune_thresholds
from nuclei.watershed import Thresholds, find_instances

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


def draw_set(count, seed=0, side=64):
    """An ImageSet of bright discs on black, 12 to 20 px wide; some of them touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images, labels = [], []
    for _ in range(count):
        one = np.zeros((side, side), np.int32)
        for label in range(1, 6):
            centre = rng.uniform(8, side - 8, 2)
            disc = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(6, 10)
            one[disc & (one == 0)] = label
        light = 30 + 120 * (one > 0) + rng.normal(0, 8, one.shape)
        images.append(np.repeat(light.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1))
        labels.append(one)
    return ImageSet([f"{i:02d}" for i in range(count)], images, labels, ["fluorescence-small"] * count)


NOTHING = ImageSet([], [], [], [])


def train_tiny(folder, tuning=NOTHING, on_better=lambda *_: None, **settings):
    return train_model(replace(TINY, **settings), draw_set(6), tuning, folder, on_better)


def read_log(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with tuning images -> (its folder, what train_model returned)."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_tiny(folder, draw_set(2, seed=1))


# ---- the schedule ------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(warmup):
    progress = np.linspace(0, 1, 201)
    rates = np.array([learning_rate(p, 2e-3, warmup) for p in progress])
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(2e-3)
    assert progress[top] == pytest.approx(warmup)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[0] > 0  # the first step moves, too
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert learning_rate((1 + warmup) / 2, 2e-3, warmup) == pytest.approx(1e-3)  # half way down


def test_the_rate_stays_zero_after_the_end():
    assert learning_rate(1.5, 2e-3, 0.05) == pytest.approx(0, abs=1e-12)


def test_progress_by_steps():
    schedule = train._Schedule(minutes=5, steps=4)
    assert [schedule.progress(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends compile in one way alone")
@pytest.mark.parametrize(("seconds", "xla"), [([1.0, 2.0], True), ([2.0, 1.0], False)])
def test_the_faster_way_to_compile_is_chosen_and_the_trial_changes_no_weight(monkeypatch, seconds, xla):
    config = replace(TINY, model_depth=1, train_crop=16, train_steps=0, train_minutes=train.TRIAL_MINUTES)
    network = new_model(config)
    before = [variable.numpy() for variable in network.trainable_variables]
    measure, given = train._seconds_per_step, iter(seconds)
    monkeypatch.setattr(train, "_seconds_per_step", lambda *trial: [measure(*trial), next(given)][1])
    batch = np.zeros((2, 16, 16, 3), np.float32), np.ones((2, 16, 16, 4), np.float32)
    chosen = train.compile_model(network, config, batch)
    assert chosen.jit_compile is xla
    for variable, was in zip(chosen.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), was)


@pytest.fixture
def clock(monkeypatch):
    """A clock that this test sets: clock[0] is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    return now


def test_progress_by_the_clock_counts_from_the_first_step_and_ends_in_time(clock):
    schedule = train._Schedule(minutes=10, steps=0)
    clock[0] += 52  # the first step compiles
    assert schedule.progress(1) == 0
    end = 1000 + 600 * (1 - train.TUNING_SHARE)
    for share in (0.1, 0.5, 0.99):
        clock[0] = 1052 + share * (end - 1052)
        assert schedule.progress(2) == pytest.approx(share)
    clock[0] = end
    assert schedule.progress(3) == pytest.approx(1)
    clock[0] = end + 100
    assert schedule.progress(4) == 1


def test_a_first_step_longer_than_the_budget_ends_the_training(clock):
    schedule = train._Schedule(minutes=0.1, steps=0)
    clock[0] += 60
    assert schedule.progress(1) in (0, 1)
    clock[0] += 1
    assert schedule.progress(2) == 1


# ---- training ----------------------------------------------------------------------------------


def test_a_training_leaves_its_log_and_its_weights(trained):
    folder, (_, thresholds, crops) = trained
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "model.weights.h5"]
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
    model, _, _ = train_tiny(tmp_path, draw_set(1), lambda *told: news.append(told), train_steps=4)
    ((network, thresholds),) = news
    assert network.args == (model,)
    assert thresholds == Thresholds()
    for kept, best in zip(model.get_weights(), seen[0], strict=True):
        np.testing.assert_array_equal(kept, best)
    assert any((one != other).any() for one, other in zip(*seen, strict=True))


def test_the_end_is_no_news(tmp_path, eagerly):
    """What follows is the prediction with tuned thresholds."""
    train_tiny(tmp_path, draw_set(1), lambda *_: pytest.fail("told"), train_steps=2, train_checks=1)


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


# ---- thresholds --------------------------------------------------------------------------------


def mean_precision(images, network, thresholds):
    scores = []
    for image, truth in zip(images.images, images.labels, strict=True):
        probs, zoom = segment_probs(image, network, Thresholds(), TINY)
        scores.append(average_precision(truth, find_instances(probs, thresholds, zoom)))
    return np.mean(scores)


def dim_network(x):
    """Sees the discs, but never surer than 0.45, with specks of noise that are surer."""
    bright = np.clip(x[..., 0], 0, 1) * 0.45
    bright[:, ::9, ::9] = 0.9
    return np.stack([bright, np.zeros_like(bright), bright], axis=-1)


def random_network(x):
    return np.random.default_rng(int(x.sum())).random(x.shape, np.float32)


@pytest.mark.parametrize("network", [dim_network, random_network])
def test_chosen_thresholds_are_no_worse_than_the_default(network):
    images = draw_set(3)
    chosen = tune_thresholds(images, network, TINY)
    assert mean_precision(images, network, chosen) >= mean_precision(images, network, Thresholds())


def test_thresholds_are_chosen_where_the_default_sees_nothing():
    images = draw_set(3)
    chosen = tune_thresholds(images, dim_network, TINY)
    assert chosen.seed < 0.45
    assert mean_precision(images, dim_network, chosen) > mean_precision(images, dim_network, Thresholds()) + 0.1
