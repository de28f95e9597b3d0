"""Training: the phases of a run, the jitted step, the optimizer and the metrics."""
