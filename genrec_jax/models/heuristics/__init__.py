"""Recommenders that only count: popularity, own history, next number, item-transition kNN."""
