"""How much arithmetic a training sequence is, and how much a device can do.

Counted are the matrix products, 2 operations for each multiplication with its addition. Of a
sequence of T encoder and S decoder tokens, width D, feed-forward width F, vocabulary V, forward:

    encoder layer   T (4 · 2 D²  +  2 · 2 D F)      queries, keys, values, out; up, down
                    + 2 · 2 T² D                     scores, weighted values
    decoder layer   S (4 · 2 D²  +  2 · 2 D²  +  2 · 2 D F)   own attention; queries and out of the
                                                     attention to the encoder; up, down
                    + T (2 · 2 D²)                   the encoder's keys and values
                    + 2 · 2 S² D  +  2 · 2 S T D
    output          2 S D V

Where every slot of the encoder asks for an item, the decoder's tokens and the output come T times;
where the output scores trie nodes or items, their number stands for S V; without a decoder its
layers are out.

The backward pass does each product twice, once for either factor: a training step is 3 times that.
Padding is computed, so T and S are the padded lengths. Rematerialisation computes more than this;
that is no work for the model and does not count.

BART-base at T = 64, S = 8 comes to 23.5 GFLOP. tests/training/test_flops.py holds the formula to
XLA's own count, which has the rest (norms, softmax, dropout, AdamW).
"""

import jax

from genrec_jax.models.bart import BartShape

# bfloat16 products a second without sparsity, from the makers' data sheets, by `device_kind`.
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def sequence_flops(
    shape: BartShape,
    n_tokens: int,
    n_decoder_tokens: int,
    scored: int | None = None,
    every: bool = False,
) -> float:
    """Operations of one training sequence, forward and backward.

    Args:
        shape: of the model.
        n_tokens: T, padding included.
        n_decoder_tokens: S, padding included; 0 without a decoder.
        scored: vectors that the output compares a question's states with; None: the vocabulary, at
            every decoder token.
        every: whether each of the T slots is a question, or there is one.
    """
    t, s, d = n_tokens, n_decoder_tokens, shape.d_model
    questions = t if every else 1
    square = 2 * d * d
    encoder = t * (4 * square + 4 * d * shape.encoder_ffn_dim) + 4 * t * t * d
    decoder = t * 2 * square + questions * (
        s * (6 * square + 4 * d * shape.decoder_ffn_dim) + 4 * s * s * d + 4 * s * t * d
    )
    output = 2 * questions * d * (s * shape.vocab_size if scored is None else scored)
    decoder_layers = shape.decoder_layers if s else 0
    return 3.0 * (shape.encoder_layers * encoder + decoder_layers * decoder + output)


def device_peak(dtype: str) -> float | None:
    """Operations a second of all devices together; None where nobody told us."""
    kind = jax.devices()[0].device_kind
    if dtype != "bfloat16" or kind not in PEAKS:
        return None
    return PEAKS[kind] * jax.device_count()
