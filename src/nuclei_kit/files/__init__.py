"""Files: images, tables and runs that come from outside, read with care; caches and checkpoints."""
