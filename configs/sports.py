"""Amazon Sports and Outdoors: 35,598 users, 18,357 items.

    python -m genrec_jax.main --config=configs/sports.py                the paper's recipe
    python -m genrec_jax.main --config=configs/sports.py:leakfree       the same with random numbers
    python -m genrec_jax.main --config=configs/sports.py:nopretrain     the ablation of Table 3
    python -m genrec_jax.main --config=configs/sports.py:best           beyond the paper, on a CPU
    python -m genrec_jax.main --mode=audit --config=configs/sports.py    does the numbering leak?

The paper reports HR@5 .0397  NDCG@5 .0332  HR@10 .0462  NDCG@10 .0353
on the published numbering, which leaks the answer (README, "What a figure means here").
The recipe has not been run here yet on a GPU: time and score are not measured.
`:best` (README "Beyond the paper"), 30 minutes on one of 2 cores beside other work, all 35,598 test
users, history left out, one seed:

                         HR@5    NDCG@5  HR@10   NDCG@10
    20 beams             .0391   .0267   .0572   .0325
    exact                .0390   .0267   .0573   .0326
    mixed with the kNN   .0430   .0296   .0621   .0357   python -m genrec_jax ensemble --workdir=RUN
    the kNN alone        .0384   .0264   .0524   .0309
"""

from ml_collections import ConfigDict

from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import check_variant

common = load_shipped("_common.py")


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, (*common.PAPER_VARIANTS, "best"))
    return common.best("sports") if variant == "best" else common.paper("sports", variant)
