"""The run: from the competition's files to submission.csv."""
