"""Parameters in the compute dtype, cast once for many batches.

Parameters are float32, and a module casts its operands to the compute dtype at every call. Training
needs that, since the parameters change at every step. Ranking instead casts them once, before the
first batch.

Only parameters that every use casts anyway are cast here, so results are bit for bit the same.
Parameters that are also used in float32 stay float32: tables whose rows are summed (code_genrec's
encoder, the mean of the items below a trie node) or normalised, the bias of the logits, the recency
of copy scores, the weights of the low-pass filter. A model lists those of its own parameters that
are cast (`SequenceModel.cast_names`). tests/models/test_cast_params.py compares the lists with what
the modules cast.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from genrec_jax.layers.blocks import Embedding
from genrec_jax.layers.linear import Linear
from genrec_jax.models.contract import Params, SequenceModel, merge, with_string_keys

# The parameters that each module casts at every call.
CAST: dict[type[nnx.Module], tuple[str, ...]] = {
    Linear: ("kernel", "bias"),
    nnx.LayerNorm: ("scale", "bias"),
    Embedding: ("positions",),
}


def cast_params(graph: Any, params: Params) -> Params:
    """Cast the parameters of a model for inference.

    Args:
        graph: the model's graph definition, whose shape has the compute dtype.
        params: float32 parameters on the devices that will use them.

    Returns:
        New parameters; leaves that are not cast are shared with `params`.
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
