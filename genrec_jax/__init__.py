"""GenRec: sequential recommendation as sequence-to-sequence generation, in JAX and Flax."""

__version__ = "0.1.0"
