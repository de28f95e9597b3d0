"""Masking, the optimizer, the one jitted step, checkpoints."""
