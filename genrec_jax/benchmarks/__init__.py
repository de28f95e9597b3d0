"""Timings beside PyTorch's, and what the chip must do at least. Not tests; nothing imports them."""
