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

from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import check_variant

common = load_shipped("_common.py")


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, ("beauty", "sports", "yelp"))
    return common.beyond_the_paper("sasrec", variant or "beauty")
