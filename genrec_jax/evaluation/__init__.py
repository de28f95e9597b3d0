"""Evaluation of rankings: metrics, confidence intervals, breakdowns, ensembles, leakage audit."""
