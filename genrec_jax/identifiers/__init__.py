"""An item → its name → its tokens (NumPy, tokenizers)."""
