"""Untrained recommenders: popularity, the user's history, next number, item-transition kNN."""
