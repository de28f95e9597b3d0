"""SASRec (Kang and McAuley 2018), the learned baseline, in the same harness.

    python -m genrec_jax.main --config=configs/sasrec.py[:beauty|sports|yelp]

A causal self-attention encoder over item embeddings, and a softmax over all items whose weights are
tied to the embeddings: two post-norm layers of width 64, as in S3-Rec and its successors, with
three choices that make the baseline strong: full cross-entropy, prefix augmentation (every prefix
of a sequence is an example of its own) and reversed positions (the most recent item is 0). No
users, no identifiers, no decoder: 0.88 M parameters on Beauty. Items of the history are excluded
from the rankings, except on Yelp, which has repeat consumption.

Beauty, seed 0, 8 minutes on one of 2 cores beside other jobs, all 22,363 test users:
HR@5 .0692  NDCG@5 .0499  HR@10 .0948  NDCG@10 .0580
"""

from ml_collections import ConfigDict

from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import check_variant

common = load_shipped("_common.py")


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, ("beauty", "sports", "yelp"))
    return common.beyond_the_paper("sasrec", variant or "beauty")
