"""Runs: the config, the run directory, checkpoints, and the set-up of data and model."""
