"""The report: what a run found, in one page and in pictures."""
