"""Training: the schedule, the log and the loop."""
