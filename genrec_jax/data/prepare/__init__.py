"""A raw interaction log → a prepared dataset."""
