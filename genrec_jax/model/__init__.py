"""Tokens and ids → logits (JAX, Flax NNX)."""
