"""Yelp, 2019: 30,431 users, 20,033 items.

    python -m genrec_jax.main --config=configs/yelp.py                the paper's recipe
    python -m genrec_jax.main --config=configs/yelp.py:leakfree       the same with random numbers
    python -m genrec_jax.main --config=configs/yelp.py:nopretrain     the ablation of Table 3
    python -m genrec_jax.main --mode=audit --config=configs/yelp.py    does the numbering leak?

The paper reports HR@5 .0627  NDCG@5 .0475  HR@10 .0724  NDCG@10 .0507
on the published numbering, which leaks the answer (README, "What a figure means here").
The recipe has not been run here yet on a GPU: time and score are not measured.
"""

from ml_collections import ConfigDict

from genrec_jax.config import Config, check_variant


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, ("leakfree", "nopretrain"))
    config = ConfigDict(Config().to_dict())  # the paper's recipe, section 7.1
    config.data.name = "yelp"
    config.model.pretrained = "facebook/bart-base"
    if variant == "leakfree":
        config.indexing = "random"
    if variant == "nopretrain":
        config.pretrain.epochs = 0
    return config
