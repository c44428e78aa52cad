"""Stopwatch: what each stage of a run costs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuclei.network.device import peak_memory
from nuclei.settings.config import log
from nuclei.settings.files import write_csv


class Stopwatch:
    """The seconds of each stage, its images where it counts them, and the peak memory by its end."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[float, int, float]] = {}

    @contextmanager
    def stage(self, name: str, images: int = 0) -> Iterator[None]:
        """Take the time of what runs in this context."""
        start = time.monotonic()
        yield
        self.stages[name] = (time.monotonic() - start, images, peak_memory())

    def report(self, path: Path) -> None:
        """Log the table, and write it as a CSV."""
        lines = [f"{'stage':<10} {'seconds':>8} {'images':>7} {'images/s':>9}"]
        for name, (seconds, images, _) in self.stages.items():
            counts = f"{images:>7} {images / max(seconds, 1e-9):>9.1f}" if images else ""
            lines.append(f"{name:<10} {seconds:>8.1f} {counts}".rstrip())
        log.info("%s\npeak memory %.1f GB", "\n".join(lines), peak_memory())
        rows = [(name, f"{seconds:.1f}", images, f"{gb:.2f}") for name, (seconds, images, gb) in self.stages.items()]
        write_csv(path, ("stage", "seconds", "images", "peak_gb"), rows)
