"""What other tools open: what was found, and the network that found it."""
