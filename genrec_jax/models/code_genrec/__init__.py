"""The generative model over item codes with a softmax over trie nodes."""
