"""Kaggle: its client, the kernel there, and its twin here."""
