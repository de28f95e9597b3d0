"""Decoding: beam search, exhaustive scoring, ranking in batches, and files of rankings."""
