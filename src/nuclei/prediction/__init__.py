"""How images become nuclei: tiles, views, watershed, thresholds and the score."""
