"""Recommenders without training: popularity, own history, next number, item-transition kNN."""
