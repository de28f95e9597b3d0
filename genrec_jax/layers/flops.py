"""The operations of a stack of layers in the forward pass; a multiply-add counts as 2.

Only matrix products count. With T encoder and S decoder positions, width D, feed-forward width F:

    encoder layer   T (4 · 2 D²  +  2 · 2 D F)      queries, keys, values, out; up, down
                    + 2 · 2 T² D                     scores, weighted values
    decoder layer   S (4 · 2 D²  +  2 · 2 D²  +  2 · 2 D F)   self-attention; queries and out of
                                                     the cross-attention; up, down
                    + T (2 · 2 D²)                   the encoder's keys and values
                    + 2 · 2 S² D  +  2 · 2 S T D

The backward pass computes two products for each, one per factor, so a training step takes 3 times
as many operations. Padding is computed, so T and S are padded lengths. Recomputation by
rematerialisation does not count. tests/layers/test_flops.py compares the formulas with XLA's count,
which also includes norms, softmax, dropout and AdamW.
"""

from genrec_jax.layers.blocks import BlockShape

TRAINING = 3.0  # operations of a training step per operation of the forward pass


def encoder_flops(shape: BlockShape, layers: int, length: int) -> int:
    """Return the operations of encoder layers for one sequence of `length` positions."""
    d = shape.width
    return layers * (length * (8 * d * d + 4 * d * shape.ffn_dim) + 4 * length * length * d)


def decoder_flops(
    shape: BlockShape, layers: int, length: int, memory_length: int, targets: int = 1
) -> int:
    """Return the operations of decoder layers for one sequence.

    Args:
        shape: the sizes of the layers.
        layers: the number of layers.
        length: S, the tokens of a target.
        memory_length: T, the positions of the encoder.
        targets: the number of targets that are decoded from the same encoder positions.
    """
    d, s, t = shape.width, length, memory_length
    square = 2 * d * d
    per_target = s * (6 * square + 4 * d * shape.ffn_dim) + 4 * s * s * d + 4 * s * t * d
    return layers * (t * 2 * square + targets * per_target)
