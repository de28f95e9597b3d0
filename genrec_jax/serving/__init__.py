"""A trained run → top-k recommendations."""
