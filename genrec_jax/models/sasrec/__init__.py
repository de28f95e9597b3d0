"""SASRec, the baseline of causal self-attention over items."""
