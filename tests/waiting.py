"""Waiting for what another process does: no time to sleep would suit every machine."""

import time


def wait_until(true, seconds=60):
    """Wait until `true()` holds, and fail where it does not come to that."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
