"""Amazon Beauty: 22,363 users, 12,101 items.

    python -m genrec_jax.main --config=configs/beauty.py                the paper's recipe
    python -m genrec_jax.main --config=configs/beauty.py:leakfree       the same, random numbering
    python -m genrec_jax.main --config=configs/beauty.py:nopretrain     the ablation of Table 3
    python -m genrec_jax.main --config=configs/beauty.py:small          from scratch, on a CPU
    python -m genrec_jax.main --config=configs/beauty.py:best           beyond the paper, on a CPU
    python -m genrec_jax.main --mode=audit --config=configs/beauty.py   do the item numbers leak?

The paper reports HR@5 .0515  NDCG@5 .0397  HR@10 .0641  NDCG@10 .0439
on the published item numbers, which leak the test item (docs/evaluation.md, "The leak").
The recipe has not been run on a GPU here yet: its training time and metrics are not measured.

`:small` (5.0 M parameters, random item numbers), 9 minutes on 2 cores, best checkpoint, all 22,363
test users: HR@5 .0157  NDCG@5 .0095  HR@10 .0270  NDCG@10 .0131; popularity has HR@10 .0114.

`:best` (2.5 M parameters, collaborative codes, hierarchical softmax over trie nodes;
docs/beyond-the-paper.md), 16 minutes on one of 2 cores beside other jobs (94 s on an H200,
docs/results/h200), all 22,363 test users, items of the history excluded, one seed:

                                     HR@5    NDCG@5  HR@10   NDCG@10
    beam search, 20 beams            .0690   .0487   .0951   .0571
    exact ranking                    .0690   .0487   .0950   .0571
    ensemble with the kNN            .0705   .0505   .0980   .0593
    … weight from a tuning run       .0711   .0513   .0982   .0600
    the kNN alone                    .0610   .0444   .0832   .0515

The ensemble is `python -m genrec_jax ensemble --workdir=RUN`; to take its weight from a tuning run,
add --chooser=OTHER (docs/ensembles.md).

These metrics were measured before the code was split into model families. Since then, 20 beams have
HR@10 .0931 and NDCG@10 .0568 with seed 0 (docs/results/families). NDCG@10 over three seeds: .0570 ±
.0005 alone, .0586 ± .0006 as an ensemble, .0595 ± .0004 with the weight from a tuning run
(docs/beyond-the-paper.md, "Ablation").
"""

from ml_collections import ConfigDict

from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import check_variant

common = load_shipped("_common.py")


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, (*common.PAPER_VARIANTS, "small", "best"))
    if variant == "best":
        return common.best("beauty")
    return small() if variant == "small" else common.paper("beauty", variant)


def small() -> ConfigDict:
    """Return a config with 5.0 M parameters, trained from scratch in minutes on a CPU."""
    config = common.paper("beauty")
    config.indexing = "random"
    config.data.buckets = 3

    config.model.pretrained = ""
    config.model.reversed_positions = True
    config.model.vocab_size = 800
    config.model.d_model = 128
    config.model.encoder_layers = 1
    config.model.decoder_layers = 1
    config.model.attention_heads = 4
    config.model.ffn_dim = 512
    config.model.init_std = 0.08
    config.model.dropout = 0.2
    config.model.user_dropout = 0.9
    config.model.max_tokens = 128

    for phase in (config.pretrain, config.finetune):
        phase.batch_size = 128
        phase.weight_decay = 1e-2
        phase.clip_norm = 1.0
    config.pretrain.epochs = 18
    config.pretrain.learning_rate = 1.5e-3
    config.pretrain.validate_every_epochs = 9
    config.finetune.epochs = 4
    config.finetune.learning_rate = 5e-4

    config.evaluate.batch_size = 128
    config.log_every_steps = 175
    return config
