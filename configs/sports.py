"""Amazon Sports and Outdoors: 35,598 users, 18,357 items.

    python -m genrec_jax.main --config=configs/sports.py                the paper's recipe
    python -m genrec_jax.main --config=configs/sports.py:leakfree       the same, random numbering
    python -m genrec_jax.main --config=configs/sports.py:nopretrain     the ablation of Table 3
    python -m genrec_jax.main --config=configs/sports.py:best           beyond the paper, on a CPU
    python -m genrec_jax.main --mode=audit --config=configs/sports.py   do the item numbers leak?

The paper reports HR@5 .0397  NDCG@5 .0332  HR@10 .0462  NDCG@10 .0353
on the published item numbers, which leak the test item (docs/evaluation.md, "The leak").
The recipe has not been run on a GPU here yet: its training time and metrics are not measured.

`:best` (docs/beyond-the-paper.md), 30 minutes on one of 2 cores beside other jobs, all 35,598 test
users, items of the history excluded, one seed; the ensemble is
`python -m genrec_jax ensemble --workdir=RUN` (docs/ensembles.md):

                             HR@5    NDCG@5  HR@10   NDCG@10
    beam search, 20 beams    .0391   .0267   .0572   .0325
    exact ranking            .0390   .0267   .0573   .0326
    ensemble with the kNN    .0430   .0296   .0621   .0357
    the kNN alone            .0384   .0264   .0524   .0309
"""

from ml_collections import ConfigDict

from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import check_variant

common = load_shipped("_common.py")


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, (*common.PAPER_VARIANTS, "best"))
    return common.best("sports") if variant == "best" else common.paper("sports", variant)
