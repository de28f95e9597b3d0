"""Interactions → user sequences → integer batches (NumPy only)."""
