"""The workshop: the command line, Kaggle's client, one's own images, reports and experiments. It stays at home."""
