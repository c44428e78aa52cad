"""Metric: one overlap matrix, IoU, precision at ten thresholds.

A predicted nucleus is a true positive, a hit, at threshold t if its intersection over union (IoU) with a true one is
greater than t. The score of an image is the mean over t = 0.50, 0.55, ..., 0.95 of tp / (tp + fp + fn); that of a
submission is the mean over images (https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).
"""

import numpy as np

# A hit is strictly above its threshold. An IoU of exactly 3/4 and the threshold 75 / 100 are the same float, because
# one division rounds equal fractions alike; the sums inside np.arange(0.5, 1, 0.05) drift off (0.6000000000000001).
IOU_THRESHOLDS = np.arange(50, 100, 5) / 100


def overlap_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count the pixels that each true nucleus shares with each predicted one: int64 (1 + n_truth, 1 + n_predicted).

    `truth` and `predicted` are label images (H, W); labels may have gaps. Nuclei come in ascending order of label. Row
    0 and column 0 are the background, so that sums along rows and columns are the areas of the nuclei.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted has shape {predicted.shape}")
    rows, n_rows = _matrix_index(truth)
    columns, n_columns = _matrix_index(predicted)
    counts = np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns)
    return counts.reshape(n_rows, n_columns)


def _matrix_index(labels):
    """Number labels without gaps, background 0: int64 (H * W,), and how many numbers there are."""
    flat = labels.ravel().astype(np.int64)
    present = np.bincount(flat) > 0
    present[0] = True  # an image without background keeps its row 0
    return (np.cumsum(present) - 1)[flat], np.count_nonzero(present)


def iou_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return intersection over union, float64 (n_truth, n_predicted), by ascending label."""
    overlap = overlap_matrix(truth, predicted)
    true_areas = overlap.sum(axis=1)[1:, None]  # (n_truth, 1)
    predicted_areas = overlap.sum(axis=0)[None, 1:]  # (1, n_predicted)
    intersections = overlap[1:, 1:]
    return intersections / (true_areas + predicted_areas - intersections)


def matches_at_thresholds(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count true positives, false positives and false negatives at IOU_THRESHOLDS: each int64 (10,)."""
    iou = iou_matrix(truth, predicted)
    n_truth, n_predicted = iou.shape
    # No assignment problem to solve. If IoU(T, P) > 1/2, T covers more than half of P, and two nuclei that don't
    # overlap can't both do so, nor the other way round: nobody has two partners.
    hits = iou > IOU_THRESHOLDS[:, None, None]  # (10, n_truth, n_predicted)
    tp = np.count_nonzero(hits, axis=(1, 2))
    return tp, n_predicted - tp, n_truth - tp


def precision_at_thresholds(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return tp / (tp + fp + fn), float64 (10,), at IOU_THRESHOLDS.

    With no nuclei on either side there is nothing to get wrong: 1. On one side only: 0.
    """
    tp, fp, fn = matches_at_thresholds(truth, predicted)
    nuclei = tp + fp + fn
    return np.where(nuclei > 0, tp / np.maximum(nuclei, 1), 1.0)


def average_precision(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the competition's score of one image, a float in 0..1."""
    return float(precision_at_thresholds(truth, predicted).mean())
