"""Train: one network inside a time budget, its best weights, and the thresholds that go with them."""

import os
import shutil
import time
from dataclasses import asdict
from functools import partial

import keras
import numpy as np

from nuclei.batches import Crops
from nuclei.checkpoint import (
    CHECKPOINT_SECONDS,
    CHECKPOINTS,
    digest_arrays,
    digest_images,
    load_checkpoint,
    save_checkpoint,
)
from nuclei.config import LOG, WEIGHTS, BadInput, log
from nuclei.device import gpu_capability
from nuclei.loss import weighted_crossentropy_dice
from nuclei.model import build_model
from nuclei.optimizer import ADAM_SHARE, NEWTON_SCHULZ_STEPS, ConvMuon
from nuclei.parallel import count_copies, predict_step, share_gpus, shared_loss, train_step
from nuclei.schedule import Schedule, learning_rate
from nuclei.training_log import Progress, TrainingLog
from nuclei.tuning import score_set, tune_thresholds
from nuclei.watershed import Thresholds

EXPLODED = 5.0  # the loss of a network that knows nothing is about 1.5; after the first epoch, one above this is lost
HALVINGS = 3  # of the learning rate, one each time that the training is lost


def new_model(config):
    """The network that a config describes, with fresh weights: three outputs, see targets."""
    return build_model(config.model_name, config.model_width, config.model_depth, config.model_stem, outputs=4)


def compile_model(model, config, parts=1):
    """Readies a network for training -> a compiled Model of its layers and weights; its learning rate is 0 so far.

    Where each batch comes in several parts (see `train_step`), the optimiser takes one step along their mean.

    On a CPU TensorFlow goes without XLA, whose convolutions are slower than oneDNN's.
    """
    one = keras.Model(model.input, model.output, name=model.name)
    optimizer = ConvMuon(
        0.0,
        weight_decay=config.train_decay,
        adam_weight_decay=config.train_decay,
        adam_lr_ratio=ADAM_SHARE,
        ns_steps=NEWTON_SCHULZ_STEPS,
        global_clipnorm=1.0,
        gradient_accumulation_steps=parts if parts > 1 else None,
    )
    on_cpu = keras.backend.backend() == "tensorflow" and gpu_capability() is None
    one.compile(optimizer, shared_loss(weighted_crossentropy_dice), jit_compile=False if on_cpu else "auto")
    one.optimizer.build(one.trainable_variables)
    return one


# ---- training ----------------------------------------------------------------------------------


def train_model(config, train, tuning, folder, on_better, start=None):
    """Trains a new network, or goes on with one -> (model with its best weights, Thresholds, how many crops it saw).

    Writes into `folder` as it goes: model.weights.h5 (the weights that scored best on the tuning images, replaced
    atomically), log.csv (a row an epoch) and the checkpoints from which the same call goes on.

    Args:
        config: a Config.
        train: ImageSet with labels, to learn from.
        tuning: ImageSet with labels, to choose weights and thresholds on; where it is empty the last weights and the
            default thresholds are kept.
        folder: an existing Path.
        on_better: called with (network, Thresholds) on the way, when the weights are the best so far.
        start: the weights to begin with, as get_weights of a Keras Model gives them; None begins with random ones.

    Raises:
        BadInput: `folder` has checkpoints of other settings or other images, or the training was lost too often.
    """
    entered = time.monotonic()
    keras.utils.set_random_seed(config.train_seed)
    crops = Crops(train.images, train.labels, train.kinds, config, train.ids)
    digests = {"train": digest_images(train), "tuning": digest_images(tuning)}
    training = _Training(config, folder, digests, start)
    at, network = training.at, partial(predict_step, training.model)
    used = at.seconds + time.monotonic() - entered
    schedule = Schedule(config.train_minutes, config.train_steps, used, at.start)
    checks = np.arange(1, config.train_checks + 1) / config.train_checks if tuning.ids else np.empty(0)
    checks = checks[checks > at.done]
    with TrainingLog(folder / LOG, at) as training_log:
        for x, y in crops.stream(at.step) if at.done < 1 else ():
            rate = learning_rate(at.done, config.train_rate, config.train_warmup) * 0.5**at.halvings
            loss = training.learn(x, y, rate)
            at.step += 1
            at.done, at.start, at.seconds = schedule.progress(at.step), schedule.start, schedule.seconds()
            score, better = None, False
            check = checks.size > 0 and at.done >= checks[0]
            milestone = check or at.done >= 1 or training.save_is_due()
            if milestone:
                training.ensure_finite()
            if check:
                checks = checks[checks > at.done]
                score = score_set(tuning, network, Thresholds(), config)
                better = score > at.best
                if better:
                    training.keep_best(score)
            training_log.note(rate, loss, score)
            if milestone:
                at.seconds = schedule.seconds()
                training.save()
            if better and at.done < 1:
                on_better(network, Thresholds())
            if at.done >= 1:
                break
    if at.thresholds is None:
        if training.best:
            training.use_best()
            at.thresholds = asdict(tune_thresholds(tuning, network, config))
        else:
            training.keep_best(at.best)
            at.thresholds = asdict(Thresholds())
        training.save()
    training.use_best()
    return training.model, Thresholds(**at.thresholds), at.step * config.train_batch


class _Training:
    """A network in training, its progress and its best weights: cut off, it goes on from its last checkpoint; lost, it
    goes back to it.

    Args:
        config: a Config.
        folder: Path of the run's folder.
        images: dict, the digests of the images; with them the checkpoints of another run are told apart.
        start: see `train_model`.
    """

    def __init__(self, config, folder, images, start=None):
        self.config = config
        self.weights_file, self.checkpoints = folder / WEIGHTS, folder / CHECKPOINTS / "training"
        versions = {"keras": keras.__version__, "backend": keras.backend.backend()}
        versions["precision"] = keras.mixed_precision.dtype_policy().name
        self.settings = asdict(config) | images | versions
        if start is not None:
            self.settings["start"] = digest_arrays(start)
        saved = load_checkpoint(self.checkpoints, self.settings)
        self.at = Progress(**saved[0]) if saved else Progress()
        with share_gpus(config.train_batch, config.tile_batch):
            self.bare = new_model(config)  # shares its weights with `model`, and saves them without the optimiser's
            if start is not None:
                self.bare.set_weights(start)
            self.model = compile_model(self.bare, config, self.at.parts)
        if saved:
            log.info("going on after step %d, with %.0f s of training behind it", self.at.step, self.at.seconds)
            self.good = saved[1]
            self.best = self.good.get("best", [])
            if self.best:  # a kill may have come before the file
                self.use_best()
                save_weights(self.bare, self.weights_file)
            self._restore()
            self.saved_at = time.monotonic()
        else:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # torn ones, and predictions that belong to them
            self.best = []
            self.save()

    def _variables(self):
        """The names and the variables of what a checkpoint holds, random states included."""
        return {"model": self.model.variables, "optimizer": self.model.optimizer.variables}

    def save(self):
        """Takes the variables for good, and writes a checkpoint."""
        groups = self._variables().items()
        self.good = {name: [keras.ops.convert_to_numpy(one) for one in group] for name, group in groups}
        save_checkpoint(self.checkpoints, self.settings, asdict(self.at), self.good | {"best": self.best})
        self.saved_at = time.monotonic()

    def save_is_due(self):
        return time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS

    def _restore(self):
        for name, group in self._variables().items():
            for variable, value in zip(group, self.good[name], strict=True):
                variable.assign(value)

    def keep_best(self, score):
        """The weights as they are now are the best so far."""
        self.at.best, self.best = score, self.bare.get_weights()
        save_weights(self.bare, self.weights_file)

    def use_best(self):
        self.bare.set_weights(self.best)

    def learn(self, x, y, rate):
        """One step of training -> its loss. A batch that is too large for the memory is cut in parts from then on."""
        while True:
            self.model.optimizer.learning_rate = rate
            try:
                loss = train_step(self.model, x, y, self.at.parts)
                break
            except Exception as error:
                if not is_out_of_memory(error) or not self._can_cut():
                    raise
            self._cut_batches()  # outside the handler, where the error no longer holds what filled the memory
        if not np.isfinite(loss) or (self.at.rows and loss > EXPLODED):
            self._go_back(f"the loss of step {self.at.step + 1} was {loss:.3g} at a learning rate of {rate:.2g}")
        return loss

    def ensure_finite(self):
        """Goes back where the last step spoilt the weights, which only the loss of the next one would show."""
        if not all(np.isfinite(one).all() for one in self.bare.get_weights()):
            self._go_back(f"step {self.at.step} made weights that are no numbers")

    def _go_back(self, why):
        """The last good weights again, and half the learning rate; the schedule goes on."""
        if self.at.halvings == HALVINGS:
            raise BadInput(
                f"{why}, and going back at half the rate did not help {HALVINGS} times: lower train_rate in "
                "src/nuclei/config.py"
            )
        self.at.halvings += 1
        log.warning("%s: back to the last good weights, at half the rate", why)
        self._restore()

    def _can_cut(self):
        """Whether half of what is computed at once still has a crop for each copy of the network."""
        return self.config.train_batch % (2 * self.at.parts * count_copies(self.model)) == 0

    def _cut_batches(self):
        """Half as many crops at once, from the last good weights on."""
        self.at.parts *= 2
        crops = self.config.train_batch // self.at.parts
        if count_copies(self.model) > 1:  # where Keras cannot accumulate gradients
            log.warning("out of memory: a step has %d crops from now on, and the others are left out", crops)
        else:
            log.warning("out of memory: a step is computed from %d times %d crops from now on", self.at.parts, crops)
            # The optimiser starts afresh: memory runs out in the first steps, if ever.
            self.model = compile_model(self.bare, self.config, self.at.parts)
            self.good["optimizer"] = [keras.ops.convert_to_numpy(one) for one in self.model.optimizer.variables]
        self._restore()
        self.save()


def is_out_of_memory(error):
    """Whether an exception of any backend says that the device's memory is full."""
    text = f"{type(error).__name__} {error}".lower().replace("_", "").replace(" ", "")
    return "resourceexhausted" in text or "outofmemory" in text


def save_weights(model, path):
    """Writes the weights as HDF5, whole or not at all."""
    temporary = path.with_name("writing.weights.h5")  # Keras insists on the ending
    model.save_weights(temporary)
    os.replace(temporary, path)
