"""The operations of a stack of layers: 2 for each multiplication with its addition, forward.

Counted are the matrix products. Of T encoder and S decoder positions, width D, feed-forward width
F:

    encoder layer   T (4 · 2 D²  +  2 · 2 D F)      queries, keys, values, out; up, down
                    + 2 · 2 T² D                     scores, weighted values
    decoder layer   S (4 · 2 D²  +  2 · 2 D²  +  2 · 2 D F)   own attention; queries and out of the
                                                     attention to the encoder; up, down
                    + T (2 · 2 D²)                   the encoder's keys and values
                    + 2 · 2 S² D  +  2 · 2 S T D

The backward pass does each product twice, once for either factor: a training step is 3 times that.
Padding is computed, so T and S are padded lengths. Rematerialisation computes more than this; that
is no work for the model and does not count. tests/layers/test_flops.py compares the formulas with
XLA's own count, which includes the rest (norms, softmax, dropout, AdamW).
"""

from genrec_jax.layers.blocks import BlockShape

TRAINING = 3.0  # operations of a training step for each of the forward pass


def encoder_flops(shape: BlockShape, layers: int, length: int) -> int:
    """Operations of an encoder's layers for one sequence of `length` positions."""
    d = shape.width
    return layers * (length * (8 * d * d + 4 * d * shape.ffn_dim) + 4 * length * length * d)


def decoder_flops(
    shape: BlockShape, layers: int, length: int, memory_length: int, names: int = 1
) -> int:
    """Operations of a decoder's layers for `names` names of `length` tokens each.

    Args:
        shape: of the layers.
        layers: their number.
        length: S.
        memory_length: T, positions of the encoder.
        names: that are decoded from the same encoder positions.
    """
    d, s, t = shape.width, length, memory_length
    square = 2 * d * d
    name = s * (6 * square + 4 * d * shape.ffn_dim) + 4 * s * s * d + 4 * s * t * d
    return layers * (t * 2 * square + names * name)
