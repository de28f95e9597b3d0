"""Parameters in the compute dtype, cast once for many batches.

Parameters are float32, and a module casts what it multiplies to its compute dtype at every call.
Training needs that, since the parameters change at every step. Ranking does not: it casts them
before the first batch.

Only a parameter that every use casts anyway is cast here, so that results are bit for bit the same.
What some use takes in float32 stays float32: tables whose rows are added up (code_genrec's encoder,
the mean of the items below a trie node) or made cosines, the bias of the logits, the recency of
copy scores, the weights of the low-pass filter. Of its own parameters a model says so itself
(`SequenceModel.cast_names`). tests/models/test_cast_params.py compares that with what the modules
do.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from genrec_jax.layers.blocks import Embedding
from genrec_jax.layers.linear import Linear
from genrec_jax.models.contract import Params, SequenceModel, merge, with_string_keys

# The parameters of a module that it casts at every call.
CAST: dict[type[nnx.Module], tuple[str, ...]] = {
    Linear: ("kernel", "bias"),
    nnx.LayerNorm: ("scale", "bias"),
    Embedding: ("positions",),
}


def cast_params(graph: Any, params: Params) -> Params:
    """The parameters of a model for inference: those that it casts at every call, cast.

    Args:
        graph: of the model, whose shape says what the compute dtype is.
        params: float32, on the devices that will use them. They are not changed; leaves that are
            not cast are shared with the result.
    """
    model = merge(graph, params)
    dtype = jnp.dtype(model.shape.dtype)
    for _, module in nnx.iter_modules(model):
        is_model = isinstance(module, SequenceModel)
        names = module.cast_names() if is_model else CAST.get(type(module), ())
        for name in names:
            parameter = getattr(module, name)
            parameter.set_value(parameter[...].astype(dtype))
    return with_string_keys(nnx.to_pure_dict(nnx.state(model)))
