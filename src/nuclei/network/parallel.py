"""Parallel: one network on several GPUs, a copy on each.

With TensorFlow alone: on the other backends there is one copy. A network that is made in `share_gpus`, and compiled
there with a `shared_loss`, is trained by `train_step` and called by its `predictor`: each copy takes its part of the
batch, and all make the same step, along the mean of the gradients.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import keras
import numpy as np
from keras import KerasTensor

from nuclei.network.device import list_gpus
from nuclei.settings.config import log


def share_gpus(*batches: int) -> AbstractContextManager:
    """Make a context in which a network lives on as many GPUs as divide all `batches` that it will be given."""
    gpus = list_gpus() if keras.backend.backend() == "tensorflow" else []
    copies = math.gcd(max(len(gpus), 1), *batches)
    if copies < 2:
        return nullcontext()
    import tensorflow as tf

    log.info("one network on %d GPUs", copies)
    return tf.distribute.MirroredStrategy(gpus[:copies]).scope()


def shared_loss(loss: Callable) -> Callable:
    """Make a loss to compile with in `share_gpus`: each copy's share of the whole batch's loss, from its part of it.

    TensorFlow adds up the gradients of the copies, and Keras divides only such losses by their number as come one an
    image; ours are means already.
    """
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    copies = tf.distribute.get_strategy().num_replicas_in_sync
    return lambda y_true, y_pred: loss(y_true, y_pred) / copies


def count_copies(model: keras.Model) -> int:
    """Count the GPUs on which a network lives; 1 without a GPU."""
    strategy = _strategy_of(model)
    return strategy.num_replicas_in_sync if strategy else 1


def sum_over_copies(tensors: list) -> list:
    """Add up each tensor over the copies of a network, within a step that they take; one copy alone has the sum."""
    if keras.backend.backend() != "tensorflow":
        return tensors
    import tensorflow as tf

    copies = tf.distribute.get_replica_context()
    return copies.all_reduce(tf.distribute.ReduceOp.SUM, tensors) if copies.num_replicas_in_sync > 1 else tensors


def train_step(model: keras.Model, x: np.ndarray, y: np.ndarray, parts: int = 1) -> KerasTensor:
    """Take one step of training on a batch -> its loss, a scalar on the device, which float() waits for.

    Where the memory is short, the batch is computed in equal parts, one after the other, and a network that was
    compiled for so many makes one step of them. On several GPUs, where Keras cannot add up gradients over calls, the
    step has the first part alone.
    """
    pieces = list(zip(np.split(x, parts), np.split(y, parts), strict=True))
    if strategy := _strategy_of(model):
        return _train_part(model, *(_share(piece, strategy) for piece in pieces[0]))
    return sum(_train_part(model, *piece) for piece in pieces) / parts


def _train_part(model, x, y):
    """Do what Keras's train_on_batch does, but for its wait for the loss; it would show each copy the whole batch."""
    model.reset_metrics()  # else the loss is the mean over all steps so far
    model.make_train_function()
    batch = iter([(x, y, None)])
    if keras.backend.backend() != "jax":
        return model.train_function(batch)["loss"]
    weights = [model.trainable_variables, model.non_trainable_variables]
    groups = [*weights, model.optimizer.variables, model.metrics_variables]
    logs, state = model.train_function(tuple([one.value for one in group] for group in groups), batch)
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)
    return logs["loss"]


def predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Make a call of a network: float32 (N, H, W, 3) -> (N, H, W, C)."""
    strategy = _strategy_of(model)
    if strategy is None:
        return model.predict_on_batch
    model.make_predict_function()
    return lambda x: model.predict_function([(_share(x, strategy),)])


def _strategy_of(model):
    """Find TensorFlow's strategy for a network on several GPUs, else None."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy if strategy and strategy.num_replicas_in_sync > 1 else None


def _share(batch, strategy):
    """Cut an array into equal parts, one for each copy of the network."""
    parts = np.split(batch, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: keras.ops.convert_to_tensor(parts[context.replica_id_in_sync_group])
    )
