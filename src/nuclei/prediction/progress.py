"""Progress: a bar or a line a minute over many images."""

import time
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm

from nuclei.settings.config import log

PROGRESS_SECONDS = 60  # seconds between two log lines


def progress(items: Sequence, name: str) -> Iterator:
    """Yield the items of a sequence one by one: under a live bar in a terminal, elsewhere with a log line a minute."""
    bar = tqdm(items, desc=name, unit=" images", disable=None, leave=False)
    said = time.monotonic()
    for done, item in enumerate(bar):
        if bar.disable and time.monotonic() - said >= PROGRESS_SECONDS:
            log.info("%s: %d of %d images", name, done, len(items))
            said = time.monotonic()
        yield item


def one_behind(items: Iterable) -> Iterator:
    """Yield each item once the one after it is made, or its making was cut off: what was started is not lost."""
    making, end = iter(items), object()
    item = next(making, end)
    while item is not end:
        try:
            following = next(making, end)
        except BaseException:
            yield item
            raise
        yield item
        item = following
