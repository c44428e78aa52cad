"""Info: the facts about a competition's images that are worth knowing before training on them."""

import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME
from nuclei.training_data.kinds import KINDS
from nuclei_kit.files.reading import find_whole_set, locate_set, read_images

SET_NAMES = ((TRAIN_NAME,), *TEST_NAMES.values())  # names of each set: any of them may be its


@dataclass(frozen=True)
class SetFacts:
    """What one set of images holds.

    path: where it was read; sizes: (H, W) -> images; kinds: kind -> images, in the order of KINDS;
    nuclei: kind -> nuclei in each image, int (N,), or {} where the set has no masks;
    overlapping: images whose masks share pixels; unreadable: id -> why that image cannot be read.
    """

    path: Path
    sizes: Counter
    kinds: dict[str, int]
    nuclei: dict[str, np.ndarray]
    overlapping: int
    unreadable: dict[str, str]


def find_sets(folder: Path) -> list[Path]:
    """Find the sets in a competition's folder -> their paths, training images first.

    Raises:
        BadInput: there are none, or one is incomplete.
    """
    present = [names for names in SET_NAMES if locate_set(folder, names)]
    return [find_whole_set(folder, names) for names in present or [(TRAIN_NAME,)]]  # which says what is missing


def gather_facts(path: Path, cache: Path | None = None) -> SetFacts:
    """Read the set at `path` as `read_images` does -> SetFacts.

    Raises:
        BadInput: a training image cannot be read, or the path holds no images.
    """
    images = read_images(path, cache)
    kinds = np.array(images.kinds)
    present = [kind for kind in KINDS if kind in images.kinds]
    counts = np.array([labels.max(initial=0) for labels in images.labels])
    return SetFacts(
        path=Path(path),
        sizes=Counter(image.shape[:2] for image in images.images),
        kinds={kind: images.kinds.count(kind) for kind in present},
        nuclei={kind: counts[kinds == kind] for kind in present} if images.labels else {},
        overlapping=images.overlapping,
        unreadable=images.unreadable,
    )


def facts_table(facts: SetFacts) -> str:
    """Write SetFacts as lines of text, at most 80 columns wide."""
    nuclei = np.concatenate([*facts.nuclei.values(), np.empty(0, int)])
    lines = [str(facts.path)]
    head = f"{'kind':<20} {'images':>7}"
    lines.append(f"{head} {'nuclei':>8}   an image: min median  max" if facts.nuclei else head)
    lines += [_kind_line(kind, images, facts.nuclei.get(kind, ())) for kind, images in facts.kinds.items()]
    lines.append(_kind_line("all", sum(facts.kinds.values()), nuclei))
    sizes = ", ".join(f"{height}x{width} ({n})" for (height, width), n in facts.sizes.most_common())
    lines += textwrap.wrap(f"sizes, height x width (images): {sizes}", 80, subsequent_indent="  ")
    if facts.nuclei:
        lines.append(f"images whose masks share a few pixels: {facts.overlapping}")
    lines.append(f"images that cannot be read: {len(facts.unreadable)}")
    lines += [f"  {why}" for why in facts.unreadable.values()]
    return "\n".join(lines)


def _kind_line(kind, images, nuclei):
    line = f"{kind:<20} {images:>7}"
    if len(nuclei):
        line += f" {sum(nuclei):>8} {min(nuclei):>14} {np.median(nuclei):>6g} {max(nuclei):>4}"
    return line
