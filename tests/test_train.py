"""Train: a small training twice, and what becomes of it when it is cut off or something breaks."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
from drawn import draw_disc_set
from drawn_runs import TINY, MemoryKeeper

from nuclei.network.loss import LOSSES
from nuclei.settings.config import LOSS_NAMES, BadInput
from nuclei.training import train, training_log
from nuclei.training.schedule import learning_rate
from nuclei.training.train import Keeper, compile_model, is_out_of_memory, make_crops, new_model, train_model
from nuclei.training_data.kinds import nucleus_diameter
from nuclei.training_data.targets import make_targets, pixel_weights

pytestmark = pytest.mark.slow  # nearly each test is a training, of seconds

SHORT = replace(TINY, model_diameter=16.0, train_steps=24, train_rate=1e-2, train_checks=2)


def train_tiny(folder, keeper=None, check=lambda *_: None, start=None, **settings):
    config = replace(SHORT, **settings)
    return train_model(config, draw_disc_set(6), folder / "log.csv", keeper or Keeper(), check, start)


def read_log(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def steps(monkeypatch):
    """The (model, parts) of each step that is taken."""
    original, taken = train.train_step, []

    def step(model, x, y, parts):
        taken.append((model, parts))
        return original(model, x, y, parts)

    monkeypatch.setattr(train, "train_step", step)
    return taken


# ---- training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training whose checks score 0.5 and then 0.2 -> its folder, its model, and what the checks were given."""
    folder, checks, scores = tmp_path_factory.mktemp("trained"), [], iter([0.5, 0.2])

    def check(network, is_last):
        checks.append((network.__self__.get_weights(), is_last))
        return next(scores)

    return folder, train_tiny(folder, check=check), checks


def test_a_training_leaves_its_log(trained):
    folder, _, _ = trained
    assert [path.name for path in folder.iterdir()] == ["log.csv"]
    rows = read_log(folder)
    assert list(rows[0]) == ["step", "seconds", "learning_rate", "loss", "tuning_score"]
    assert [int(row["step"]) for row in rows] == [12, 24]  # the checks
    assert [row["tuning_score"] for row in rows] == ["0.5000", "0.2000"]
    assert float(rows[0]["learning_rate"]) > float(rows[1]["learning_rate"]) > 0


def test_the_loss_falls(trained):
    losses = [float(row["loss"]) for row in read_log(trained[0])]
    assert losses[-1] < losses[0] - 0.05


def test_the_last_weights_are_kept_whatever_the_checks_say(trained):
    _, model, checks = trained
    assert [is_last for _, is_last in checks] == [False, True]
    assert_same_weights(model.get_weights(), checks[1][0])
    assert any((one != other).any() for one, other in zip(checks[0][0], checks[1][0], strict=True))


def test_the_same_seed_gives_the_same_weights(tmp_path, eagerly):
    """And a check that gives no score leaves none in the log."""
    one, again, other = (train_tiny(tmp_path, train_steps=3, train_seed=seed).get_weights() for seed in (3, 3, 4))
    assert [row["tuning_score"] for row in read_log(tmp_path)] == [""]
    assert_same_weights(one, again)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    keras.utils.set_random_seed(3)
    fresh = new_model(SHORT).get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(one, fresh, strict=True)) > 1e-3  # it did move


def test_a_training_begins_with_the_weights_that_it_is_given(tmp_path, eagerly):
    start = new_model(SHORT)
    model = train_tiny(tmp_path, start=start.get_weights(), train_steps=1, train_checks=1, train_rate=1e-9)
    for one, other in zip(start.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_mixed_precision_trains(tmp_path, eagerly, steps):
    """float16 brings Keras's loss scaling, which wraps the optimiser whose rate the schedule sets."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = train_tiny(tmp_path, train_steps=3)
    assert np.isfinite(float(read_log(tmp_path)[-1]["loss"]))
    assert all(np.isfinite(one).all() for one in model.get_weights())
    optimizer = steps[-1][0].optimizer
    assert float(optimizer.learning_rate) == pytest.approx(float(read_log(tmp_path)[-1]["learning_rate"]), 0.01)


def test_a_compiled_network_shares_the_weights_of_the_bare_one(eagerly):
    bare = new_model(SHORT)
    model = compile_model(bare, SHORT)
    assert_same_weights(bare.get_weights(), model.get_weights())
    bare.set_weights([one + 1 for one in bare.get_weights()])
    assert_same_weights(bare.get_weights(), model.get_weights())
    assert float(model.optimizer.learning_rate) == 0


def test_crops_are_made_as_the_config_says():
    config = replace(SHORT, target_core=0.2, target_border=9.0, target_rare=1.0, model_zoom=1.0, train_zoom=0.0)
    images = draw_disc_set(2)
    crops = make_crops(config, images)
    labels = images.labels[0]
    expected = np.dstack([make_targets(labels, 0.2), pixel_weights(labels, 9.0, 4.0, 1.0)])
    np.testing.assert_array_equal(crops.make_y(labels), expected)
    assert crops.batch(0)[1].shape == (2, 64, 64, 4)
    assert crops.zooms == pytest.approx([16 / nucleus_diameter(one) for one in images.labels])


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_step_of_training_goes_by_the_loss_that_the_config_names(name, outputs, eagerly):
    """The loss of a step is that of what the network says of the crops, and the step makes it smaller."""
    config = replace(SHORT, train_loss=name, model_outputs=outputs)
    images = draw_disc_set(2)
    crops = make_crops(config, images)
    targets = make_targets(images.labels[0], config.target_core)[..., :outputs]
    np.testing.assert_array_equal(crops.make_y(images.labels[0])[..., :-1], targets)
    x, y = crops.batch(0)
    assert y.shape == (2, 64, 64, outputs + 1)
    bare = new_model(config)
    assert bare.output_shape[-1] == outputs
    model = compile_model(bare, config)
    model.optimizer.learning_rate = 1e-3
    losses = []
    for _ in range(4):
        said = bare(x, training=True)
        losses.append(float(train.train_step(model, x, y, 1)))
        assert losses[-1] == pytest.approx(float(LOSSES[name](y, said)), rel=1e-4)
    assert losses[-1] < losses[0]


def apply_gradients(config, steps):
    """The trainable weights of a compiled network of ones after steps at a rate of 0.1, each of numbers a variable."""
    bare = small_network(config)
    bare.set_weights([np.ones_like(one) for one in bare.get_weights()])
    model = compile_model(bare, config)
    model.optimizer.learning_rate = 0.1
    for gradients in steps:
        model.optimizer.apply([keras.ops.convert_to_tensor(one.astype(np.float32)) for one in gradients])
    return [keras.ops.convert_to_numpy(one) for one in model.trainable_variables]


def draw_gradients(config, seed):
    """Random gradients whose length, all variables together, is 1."""
    rng = np.random.default_rng(seed)
    gradients = [rng.normal(size=one.shape) for one in small_network(config).trainable_variables]
    return [one / np.sqrt(sum((other**2).sum() for other in gradients)) for one in gradients]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weights_decay_as_the_config_says(decay):
    """By the rate times the decay, kernels and the rest alike, where there is no gradient."""
    config = replace(SHORT, train_decay=decay)
    nothing = [0 * one for one in draw_gradients(config, 0)]
    for weights in apply_gradients(config, [nothing]):
        np.testing.assert_allclose(weights, 1 - 0.1 * decay, rtol=1e-6)


def test_a_long_gradient_counts_as_one_of_length_1():
    """So one bad batch does not outweigh those after it: the momenta would keep it."""
    first, second = (draw_gradients(SHORT, seed) for seed in range(2))
    after = [apply_gradients(SHORT, [[by * one for one in first], second]) for by in (1.0, 10.0, 1000.0, 0.1)]
    for unit, longer, longest, shorter in zip(*after, strict=True):
        np.testing.assert_allclose(longer, unit, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(longest, unit, rtol=1e-3, atol=1e-5)
        assert np.abs(shorter - unit).max() > 1e-3


# ---- training that was cut off -----------------------------------------------------------------


@pytest.fixture
def cut_off(monkeypatch):
    """Ends the training in the middle of its n-th step, as a kill would; before it, each step is saved."""
    monkeypatch.setattr(train, "REMEMBER_SECONDS", 0.0)
    original = train.train_step

    def cut(calls):
        left = [calls]

        def limited(*arguments):
            loss = original(*arguments)  # what it did is lost
            left[0] -= 1
            if not left[0]:
                monkeypatch.setattr(train, "train_step", original)
                raise KeyboardInterrupt
            return loss

        monkeypatch.setattr(train, "train_step", limited)

    return cut


def small_network(config):
    """All that a network can keep from step to step: weights, averages of statistics, and dropout's random state."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x = keras.layers.Conv2D(3, 1)(keras.layers.Dropout(0.2)(x))
    return keras.Model(inputs, keras.layers.Activation("sigmoid", dtype="float32")(x))


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_training_cut_off_again_and_again_ends_as_an_unbroken_one(tmp_path, cut_off, eagerly, monkeypatch, policy):
    """In the middle of the first step, of a later one, and of a check."""
    keras.mixed_precision.set_global_policy(policy)  # float16 has the state of its loss scaling, too
    monkeypatch.setattr(train, "new_model", small_network)
    keepers = {name: MemoryKeeper() for name in ("one", "other")}
    for name in keepers:
        (tmp_path / name).mkdir()
    whole = train_tiny(tmp_path / "one", keepers["one"], lambda *_: 0.5, train_steps=6)

    def interrupt(*_):
        raise KeyboardInterrupt

    for steps in (1, 2, None):
        if steps:
            cut_off(steps)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "other", keepers["other"], interrupt, train_steps=6)
    resumed = train_tiny(tmp_path / "other", keepers["other"], lambda *_: 0.5, train_steps=6)
    assert_same_weights(whole.get_weights(), resumed.get_weights())
    (state, arrays), (same_state, same_arrays) = (keeper.load("training") for keeper in keepers.values())
    assert arrays.keys() == same_arrays.keys() == {"model", "optimizer"}
    for name in arrays:
        assert_same_weights(arrays[name], same_arrays[name])
    assert state["step"] == same_state["step"] == 6
    assert without_seconds(read_log(tmp_path / "one")) == without_seconds(read_log(tmp_path / "other"))


def test_a_training_that_is_over_only_brings_its_model_and_its_log_back(tmp_path, eagerly, monkeypatch):
    keeper = MemoryKeeper()
    model = train_tiny(tmp_path, keeper, lambda *_: 0.5, train_steps=2, train_checks=1)
    log = read_log(tmp_path)
    (tmp_path / "log.csv").unlink()
    monkeypatch.setattr(train, "train_step", lambda *_: pytest.fail("a step"))
    again = train_tiny(tmp_path, keeper, lambda *_: pytest.fail("a check"), train_steps=2, train_checks=1)
    assert read_log(tmp_path) == log
    assert_same_weights(model.get_weights(), again.get_weights())


# ---- training that goes wrong ------------------------------------------------------------------


def lose(monkeypatch, losses, look=1):
    """Have the steps with these numbers, from 1 on, spoil the weights and say another loss; look every so many."""
    monkeypatch.setattr(train, "LOOK_EVERY", look)
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
@pytest.mark.parametrize("step, look", [(2, 1), (4, 1), (2, 16)])
def test_a_broken_training_goes_back_and_resumes_at_half_the_rate(
    tmp_path, monkeypatch, eagerly, caplog, loss, step, look
):
    """A loss of 0.7 hides the spoilt weights until they would be saved, or the next loss shows them."""
    lose(monkeypatch, {step: loss}, look)
    model = train_tiny(tmp_path, train_steps=4)
    (warning,) = [message for message in caplog.messages if "half the rate" in message]
    assert "back to the last good weights" in warning
    assert all(np.isfinite(one).all() for one in model.get_weights())
    if (step, look) == (2, 1):
        full = learning_rate(3 / 4, SHORT.train_rate, SHORT.train_warmup)
        assert float(read_log(tmp_path)[-1]["learning_rate"]) == pytest.approx(full / 2, rel=0.01)


def test_an_exploding_loss_counts_as_broken(tmp_path, monkeypatch, eagerly, caplog):
    monkeypatch.setattr(training_log, "LOG_EVERY", 2)
    lose(monkeypatch, {3: train.EXPLODED_LOSS + 1})
    train_tiny(tmp_path, train_steps=4)
    assert "the loss of step 3 was 6" in caplog.text


def test_a_training_that_breaks_too_often_ends_with_the_reason(tmp_path, monkeypatch, eagerly):
    lose(monkeypatch, dict.fromkeys(range(1, 9), np.nan))
    with pytest.raises(BadInput, match=r"the loss of step 4 was nan, .* did not help 3 times: lower train_rate"):
        train_tiny(tmp_path, train_steps=8)


class ResourceExhaustedError(Exception):
    """As TensorFlow's; the texts of JAX and PyTorch are in the table below."""


FULL = [ResourceExhaustedError("OOM"), RuntimeError("RESOURCE_EXHAUSTED: 3 GB"), MemoryError("CUDA out of memory")]


@pytest.mark.parametrize("error", FULL, ids=["tensorflow", "jax", "torch"])
def test_out_of_memory_cuts_the_batch_and_keeps_the_step(tmp_path, monkeypatch, eagerly, caplog, steps, error):
    """Two crops at once are too many: twice one crop, then, and as many steps of the optimiser as ever."""
    original = train.train_step

    def small_step(model, x, y, parts):
        if len(x) // parts > 1:
            raise error
        return original(model, x, y, parts)

    monkeypatch.setattr(train, "train_step", small_step)
    keeper = MemoryKeeper()
    train_tiny(tmp_path, keeper, train_steps=3)
    assert "2 times 1 crops" in caplog.text
    assert [parts for _, parts in steps] == [2, 2, 2]
    optimizer = steps[-1][0].optimizer
    assert int(optimizer.iterations) == 3
    state, arrays = keeper.load("training")
    keeper.save("training", state | {"done": 0.9}, arrays)
    train_tiny(tmp_path, keeper, train_steps=4)  # resumed, a step is in parts from the start
    assert len(steps) == 3 + 1 and steps[-1][1] == 2
    assert optimizer.gradient_accumulation_steps == steps[-1][0].optimizer.gradient_accumulation_steps == 2


def test_a_single_crop_that_does_not_fit_is_an_error(tmp_path, monkeypatch, eagerly):
    def fail(*_):
        raise FULL[0]

    monkeypatch.setattr(train, "train_step", fail)
    with pytest.raises(ResourceExhaustedError):
        train_tiny(tmp_path, train_steps=3)


def test_another_error_is_raised(tmp_path, monkeypatch, eagerly):
    error = RuntimeError("a bug")
    assert not is_out_of_memory(error)

    def fail(*_):
        raise error

    monkeypatch.setattr(train, "train_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train_tiny(tmp_path, train_steps=3)
