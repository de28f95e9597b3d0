"""The identifiers of users and items, their tokens, and the token trie (NumPy, tokenizers)."""
