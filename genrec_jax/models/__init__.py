"""Models: inputs, forward pass, parameters, checkpoints in and out."""
