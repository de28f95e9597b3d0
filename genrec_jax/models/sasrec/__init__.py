"""SASRec, the learned baseline: causal self-attention over items."""
