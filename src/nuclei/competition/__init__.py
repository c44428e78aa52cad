"""Kaggle's files: images and masks in, rows out."""
