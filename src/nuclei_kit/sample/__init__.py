"""Competitions: the sample that is drawn, and what is in any."""
