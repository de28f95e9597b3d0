"""Ranked lists → figures."""
