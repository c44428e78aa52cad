"""Sample: a small competition that is drawn, to try things on."""
