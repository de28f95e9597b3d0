"""Yelp, 2019: 30,431 users, 20,033 items.

    python -m genrec_jax.main --config=configs/yelp.py                the paper's recipe
    python -m genrec_jax.main --config=configs/yelp.py:leakfree       the same, random numbering
    python -m genrec_jax.main --config=configs/yelp.py:nopretrain     the ablation of Table 3
    python -m genrec_jax.main --config=configs/yelp.py:best           beyond the paper, on a CPU
    python -m genrec_jax.main --mode=audit --config=configs/yelp.py   do the item numbers leak?

The paper reports HR@5 .0627  NDCG@5 .0475  HR@10 .0724  NDCG@10 .0507
on the published item numbers, which leak the test item (docs/evaluation.md, "The leak").
The recipe has not been run on a GPU here yet: its training time and metrics are not measured.

`:best` (docs/beyond-the-paper.md), 43 minutes on one of 2 cores beside other jobs, all 30,431 test
users, repeats allowed, one seed; the ensemble is `python -m genrec_jax ensemble --workdir=RUN`
(docs/ensembles.md):

                                         HR@5    NDCG@5  HR@10   NDCG@10
    beam search, 20 beams                .0511   .0353   .0766   .0436
    exact ranking                        .0511   .0354   .0767   .0436
    ensemble with the kNN and history    .0593   .0405   .0890   .0501
    own history, newest first            .0547   .0389   .0620   .0414
    the kNN alone                        .0404   .0269   .0625   .0340
"""

from ml_collections import ConfigDict

from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import check_variant

common = load_shipped("_common.py")


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, (*common.PAPER_VARIANTS, "best"))
    return common.best("yelp") if variant == "best" else common.paper("yelp", variant)
