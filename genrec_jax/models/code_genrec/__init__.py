"""The generative model over item codes, with a hierarchical (trie) softmax."""
