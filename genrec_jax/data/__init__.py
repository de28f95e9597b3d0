"""Data on the host: a log or a dataset → user sequences → batches of integers."""
