"""The commands of `python -m genrec_jax`, one module each."""
