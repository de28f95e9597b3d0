"""Recommendations from a trained run: the Python interface, and the recommend command."""
