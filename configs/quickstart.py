"""A minute on two cores: a small model from scratch on the synthetic dataset.

    launch/quickstart.sh
    python -m genrec_jax.main --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from genrec_jax.config import Config


def get_config() -> ConfigDict:
    config = ConfigDict(Config().to_dict())
    config.indexing = "random"

    config.model.vocab_size = 256
    config.model.d_model = 64
    config.model.encoder_layers = 2
    config.model.decoder_layers = 2
    config.model.attention_heads = 2
    config.model.ffn_dim = 256
    config.model.init_std = 0.1
    config.model.max_tokens = 128
    config.data.buckets = 2

    config.pretrain.epochs = 30
    config.pretrain.batch_size = 64
    config.pretrain.learning_rate = 2e-3
    config.pretrain.weight_decay = 1e-2
    config.pretrain.clip_norm = 1.0
    config.pretrain.validate_every_epochs = 10

    config.finetune.epochs = 5
    config.finetune.batch_size = 64
    config.finetune.learning_rate = 5e-4
    config.finetune.weight_decay = 1e-2
    config.finetune.clip_norm = 1.0
    config.finetune.validate_every_epochs = 1

    config.evaluate.batch_size = 128
    config.evaluate.validation_users = 500
    return config
