"""The network: its layers, what it minimises, and what computes it."""
