"""The workshop: the command line and whatever stays at home."""
