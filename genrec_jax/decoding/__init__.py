"""A callable of logits → ranked items."""
