"""The command line: what is typed, what is said, and how it ends."""
