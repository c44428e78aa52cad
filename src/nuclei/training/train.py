"""Train: one network inside a time budget.

The loop is our own, since Keras's fit goes by epochs: here the learning rate goes by the time that is left. A
training that breaks down (a loss of NaN, a full memory) resumes from its last good state, and one that was cut off
ends with the weights of an unbroken one, bit for bit.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np

from nuclei.network.device import gpu_capability
from nuclei.network.loss import LOSSES
from nuclei.network.model import build_model
from nuclei.network.optimizer import ADAM_SHARE, NEWTON_SCHULZ_STEPS, ConvMuon
from nuclei.network.parallel import count_copies, predictor, share_gpus, shared_loss, train_step
from nuclei.settings.config import BadInput, Config, log
from nuclei.training.schedule import Schedule, TrainingState, learning_rate
from nuclei.training.training_log import TrainingLog
from nuclei.training_data.batches import Crops
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import network_zoom
from nuclei.training_data.targets import make_targets, pixel_weights

EXPLODED_LOSS = 5.0  # an untrained network has a loss of about 1.5; above this after the first log row it has diverged
MOST_HALVINGS = 3  # halvings of the learning rate, one each time that the training breaks down
LOOK_EVERY = 16  # steps between two looks at their losses: a GPU goes on meanwhile, and computes without a pause
REMEMBER_SECONDS = 120.0  # seconds between two good states: what a breakdown or a kill can cost


class Keeper:
    """What a run resumes from: nothing on Kaggle, where a dead session loses its files; at home, checkpoints."""

    def load(self, part: str) -> tuple[dict, dict] | None:
        """Return what was last saved of a part of the run as (state, arrays); None where there is nothing."""

    def save(self, part: str, state: dict, arrays: dict[str, list] | None = None) -> None:
        """Keep the state, a dict that JSON holds, and the arrays of a part of the run."""


def new_model(config: Config) -> keras.Model:
    """Build the network that a config describes, with fresh weights."""
    c = config
    return build_model(c.model_name, c.model_width, c.model_depth, c.model_stem, c.model_outputs)


def compile_model(model: keras.Model, config: Config, parts: int = 1) -> keras.Model:
    """Ready a network for training -> a compiled Model of its layers and weights; its learning rate is 0 so far.

    Where each batch comes in several parts (see `train_step`), the optimiser takes one step along their mean.

    On a CPU TensorFlow goes without XLA, whose convolutions are slower than oneDNN's.
    """
    one = keras.Model(model.input, model.output, name=model.name)
    decay = {"weight_decay": config.train_decay, "adam_weight_decay": config.train_decay}
    muon = {"adam_lr_ratio": ADAM_SHARE, "ns_steps": NEWTON_SCHULZ_STEPS, "global_clipnorm": 1.0}
    optimizer = ConvMuon(0.0, **decay, **muon, gradient_accumulation_steps=parts if parts > 1 else None)
    on_cpu = keras.backend.backend() == "tensorflow" and gpu_capability() is None
    one.compile(optimizer, shared_loss(LOSSES[config.train_loss]), jit_compile=False if on_cpu else "auto")
    one.optimizer.build(one.trainable_variables)
    return one


def make_crops(config: Config, train: ImageSet) -> Crops:
    """Make the random crops that a config trains on: x as the network sees them, y the targets and the weight."""
    c = config

    def make_y(labels):
        y = np.empty((*labels.shape, c.model_outputs + 1), np.float32)
        y[..., :-1] = make_targets(labels, c.target_core)[..., : c.model_outputs]
        y[..., -1] = pixel_weights(labels, c.target_border, c.target_sigma, c.target_rare)
        return y

    zoom_for = partial(network_zoom, target=c.model_diameter, share=c.model_zoom)
    return Crops(train, make_y, zoom_for, c.train_batch, c.train_crop, c.train_zoom, c.train_balance, c.train_seed)


def train_model(
    config: Config,
    train: ImageSet,
    log_file: Path,
    keeper: Keeper,
    check: Callable[[Callable, bool], float | None],
    start: list[np.ndarray] | None = None,
) -> keras.Model:
    """Train a network, or resume -> the Model with its last weights.

    Args:
        train: ImageSet with labels.
        log_file: of the training, a row every LOG_EVERY steps.
        keeper: what to resume from.
        check: called train_checks times, evenly spread, the last time at the end, with (network, whether it is the last
            time); gives a score for the log, or None.
        start: the weights to begin with, as get_weights of a Keras Model gives them; None begins with random ones.

    Raises:
        BadInput: the training broke down too often.
    """
    entered = time.monotonic()
    keras.utils.set_random_seed(config.train_seed)
    crops = make_crops(config, train)
    training = _Training(config, keeper, start)
    state = training.state
    used = state.seconds + time.monotonic() - entered
    schedule = Schedule(config.train_minutes, config.train_steps, used, state.start)
    checks = np.arange(1, config.train_checks + 1) / config.train_checks
    checks = checks[checks > state.done]
    with TrainingLog(log_file, state) as training_log:
        for x, y in crops.stream(state.step) if state.done < 1 else ():
            rate = learning_rate(state.done, config.train_rate, config.train_warmup) * 0.5**state.halvings
            training.learn(x, y, rate)
            state.step += 1
            state.done, state.start = schedule.share_done(state.step), schedule.start
            state.seconds = schedule.seconds()
            check_is_due, score = state.done >= checks[0], None
            milestone = check_is_due or training.remembering_is_due()
            if milestone:
                training.ensure_finite()
            if check_is_due:
                checks = checks[checks > state.done]
                score = check(predictor(training.bare), state.done >= 1)
            training_log.note(rate, score)
            if milestone:
                state.seconds = schedule.seconds()
                training.remember()
            if state.done >= 1:
                break
    log.info("trained on %d crops in %.0f s", state.step * config.train_batch, state.seconds)
    return training.bare


class _Training:
    """A network in training and its last good state, which it returns to when it breaks down."""

    def __init__(self, config, keeper, start):
        self.config, self.keeper = config, keeper
        self.waiting = []  # losses on the device that nobody has looked at
        saved = keeper.load("training")
        self.state = TrainingState(**saved[0]) if saved else TrainingState()
        with share_gpus(config.train_batch, config.tile_pixels // config.tile_size**2):
            self.bare = new_model(config)  # shares its weights with `model`, and saves them without the optimiser's
            if start is not None:
                self.bare.set_weights(start)
            self.model = compile_model(self.bare, config, self.state.parts)
        if saved:
            log.info("resuming after step %d and %.0f s of training", self.state.step, self.state.seconds)
            self.last_good = saved[1]
            self._restore()
            self.remembered_at = time.monotonic()
        else:
            self.remember()

    def _variables(self):
        """Name the variables of what a state holds, random states included."""
        return {"model": self.model.variables, "optimizer": self.model.optimizer.variables}

    def remember(self):
        """Make the variables, as they are, the last good state, and the keeper's."""
        groups = self._variables().items()
        self.last_good = {name: [keras.ops.convert_to_numpy(one) for one in group] for name, group in groups}
        self.keeper.save("training", vars(self.state), self.last_good)
        self.remembered_at = time.monotonic()

    def remembering_is_due(self):
        return time.monotonic() - self.remembered_at >= REMEMBER_SECONDS

    def _restore(self):
        for name, group in self._variables().items():
            for variable, value in zip(group, self.last_good[name], strict=True):
                variable.assign(value)

    def learn(self, x, y, rate):
        """Take one step of training. A batch too large for the memory is cut into parts from then on."""
        while True:
            self.model.optimizer.learning_rate = rate
            try:
                self.waiting.append(train_step(self.model, x, y, self.state.parts))
                if self.state.step == 0 or (self.state.step + 1) % LOOK_EVERY == 0:  # the first is timed, so awaited
                    self._look(self.state.step + 1)
                return
            except Exception as error:
                if not is_out_of_memory(error) or not self._can_cut():
                    raise
            self._cut_batches()  # outside the handler, where the error no longer holds what filled the memory

    def _look(self, step):
        """Wait for the losses up to that of `step`, and go back where one shows that the training broke down."""
        losses, self.waiting = self.waiting, []
        losses = [float(loss) for loss in losses]
        self.state.losses += losses
        for number, loss in enumerate(losses, start=step + 1 - len(losses)):
            if not np.isfinite(loss) or (self.state.rows and loss > EXPLODED_LOSS):
                return self._go_back(f"the loss of step {number} was {loss:.3g}")

    def ensure_finite(self):
        """Go back where the last steps broke down, or spoilt the weights, which only the next loss would show."""
        self._look(self.state.step)
        if not all(np.isfinite(one).all() for one in self.bare.get_weights()):
            self._go_back(f"step {self.state.step} left NaN or infinity in the weights")

    def _go_back(self, why):
        """Return to the last good state at half the learning rate; the schedule goes on."""
        if self.state.halvings == MOST_HALVINGS:
            raise BadInput(
                f"{why}, and going back at half the rate did not help {MOST_HALVINGS} times: lower train_rate in "
                "src/nuclei/settings/config.py"
            )
        self.state.halvings += 1
        log.warning("%s: back to the last good weights, at half the rate", why)
        self._restore()

    def _can_cut(self):
        """Tell whether half of what is computed at once still has a crop for each copy of the network."""
        return self.config.train_batch % (2 * self.state.parts * count_copies(self.model)) == 0

    def _cut_batches(self):
        """Compute half as many crops at once, from the last good state on."""
        self.state.parts *= 2
        self.waiting = []
        crops = self.config.train_batch // self.state.parts
        if count_copies(self.model) > 1:  # where Keras cannot accumulate gradients
            log.warning("out of memory: a step has %d crops from now on, and the others are left out", crops)
        else:
            log.warning("out of memory: a step is computed from %d times %d crops from now on", self.state.parts, crops)
            # The optimiser starts afresh: memory runs out in the first steps, if ever.
            self.model = compile_model(self.bare, self.config, self.state.parts)
            self.last_good["optimizer"] = [keras.ops.convert_to_numpy(one) for one in self.model.optimizer.variables]
        self._restore()
        self.remember()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception of any backend says that the device's memory is full."""
    text = f"{type(error).__name__} {error}".lower().replace("_", "").replace(" ", "")
    return "resourceexhausted" in text or "outofmemory" in text
