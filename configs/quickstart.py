"""A small model trained from scratch on the synthetic dataset in a minute on two cores.

    launch/quickstart.sh
    python -m genrec_jax.main --config=configs/quickstart.py            the paper's model, small
    python -m genrec_jax.main --config=configs/quickstart.py:codes      code_genrec, over item codes
    python -m genrec_jax.main --config=configs/quickstart.py:sasrec     SASRec

On 2 idle cores, training takes 13 s and reaches HR@10 .9025 and NDCG@10 .6347; the item-transition
kNN has .7785 and .5377, and the best possible recommender .9085 and .6483. `:codes` has .9080 and
.6426, `:sasrec` .9025 and .6353.
"""

from ml_collections import ConfigDict

from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import check_variant

common = load_shipped("_common.py")


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, ("codes", "sasrec"))
    if variant:
        return other_family({"codes": "code_genrec", "sasrec": "sasrec"}[variant])
    config = common.of_family("genrec")
    config.indexing = "random"
    config.data.buckets = 1  # compiling a second shape would take longer than it saves

    config.model.reversed_positions = True
    config.model.d_model = 64
    config.model.encoder_layers = 1
    config.model.decoder_layers = 1
    config.model.attention_heads = 2
    config.model.ffn_dim = 256
    config.model.init_std = 0.1
    config.model.user_dropout = 0.5
    config.model.max_tokens = 64

    for phase in (config.pretrain, config.finetune):
        phase.batch_size = 64
        phase.learning_rate = 2e-3
        phase.weight_decay = 1e-2
        phase.clip_norm = 1.0
    config.pretrain.epochs = 4
    config.pretrain.validate_every_epochs = 4
    config.finetune.epochs = 5

    config.evaluate.batch_size = 128
    config.evaluate.users = 2000
    config.evaluate.validation_users = 500
    config.log_every_steps = 100
    return config


def other_family(family: str) -> ConfigDict:
    """Return the config of another model family, trained on every prefix of a sequence."""
    config = common.of_family(family)
    config.data.buckets = 1
    config.model.dropout = config.model.attention_dropout = 0.2
    if family == "code_genrec":
        config.codes.dims = 16

    config.finetune.epochs = 2
    config.finetune.learning_rate = 2e-3
    config.finetune.validate_every_epochs = 1

    config.evaluate.users = 2000
    config.evaluate.validation_users = 500
    config.log_every_steps = 100
    return config
