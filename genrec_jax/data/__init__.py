"""A log or a dataset → user sequences → batches of integers, all on the host."""
