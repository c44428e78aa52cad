"""Settings: what can be chosen, and how files are written."""
