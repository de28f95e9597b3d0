"""Rankings → metrics, baselines, intervals, breakdown, leakage audit, ensembles."""
