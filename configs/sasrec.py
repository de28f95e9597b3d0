"""SASRec (Kang and McAuley 2018), the learned baseline, in the same harness.

    python -m genrec_jax.main --config=configs/sasrec.py[:beauty|sports|yelp]

An encoder of one id vector an item that looks back only, and a softmax over all items, tied to the
id vectors: two post-norm layers of width 64, as S3-Rec and its followers have them, with what makes
it strong: the full cross-entropy, every prefix of a sequence as an example of its own, positions
counted from the latest item. No users, no identifiers, no decoder: 0.88 M parameters on Beauty.
Items of the history are left out, but on Yelp, where they may come again.

Beauty, seed 0, 8 minutes on one of 2 cores beside other work, all 22,363 test users:
HR@5 .0692  NDCG@5 .0499  HR@10 .0948  NDCG@10 .0580
"""

from ml_collections import ConfigDict

from genrec_jax.runs.config import Config, check_variant


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, ("beauty", "sports", "yelp"))
    config = ConfigDict(Config.of_family("sasrec").to_dict())
    config.data.name = variant or "beauty"
    config.data.buckets = 4
    config.indexing = "random"

    config.pretrain.epochs = 0
    config.finetune.targets = "prefixes"
    config.finetune.epochs = 20
    config.finetune.batch_size = 256
    config.finetune.learning_rate = 1e-3
    config.finetune.weight_decay = 0.0
    config.finetune.validate_every_epochs = 5

    config.evaluate.search = "exhaustive"
    config.evaluate.exclude_history = config.data.name != "yelp"
    config.evaluate.batch_size = 256
    config.evaluate.validation_users = 0
    config.log_every_steps = 200
    return config
