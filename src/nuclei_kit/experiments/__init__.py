"""Experiments: recipes on folds, in pairs, and their scores."""
