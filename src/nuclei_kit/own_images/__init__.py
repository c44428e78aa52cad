"""One's own images: prediction in files of any size."""
