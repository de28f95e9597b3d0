"""Sweeps: ablations and hyperparameter searches that run many trials in parallel."""
