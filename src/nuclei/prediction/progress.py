"""Progress: a bar or a line a minute over many images."""

import time
from collections.abc import Iterator, Sequence

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
