"""Progress: what long work over many images says of itself."""

import time

from tqdm import tqdm

from nuclei.config import log

LINE_SECONDS = 60  # between two lines


def progress(items, name):
    """Gives the items of a sequence one by one: under a live bar in a terminal, elsewhere with a log line a minute."""
    bar = tqdm(items, desc=name, unit=" images", disable=None, leave=False)
    said = time.monotonic()
    for done, item in enumerate(bar):
        if bar.disable and time.monotonic() - said >= LINE_SECONDS:
            log.info("%s: %d of %d images", name, done, len(items))
            said = time.monotonic()
        yield item
