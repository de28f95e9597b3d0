"""What each step beyond the paper is worth on Beauty without the leak: three seeds, the test set.

    python -m genrec_jax.sweep --config=configs/beauty.py:best --sweep=configs/sweeps/beauty.py \\
        --workers=2

From the paper's way of writing items to `configs/beauty.py:best`, one change after the other;
SASRec, the kNN and popularity beside them. 20 epochs where a sequence is one example, as many as
`best` has where each of its prefixes is; the checkpoint that is best on all validation users. 20
beams, SASRec's ranks exact; items of the history left out.
"""

from genrec_jax.sweeps.spec import Ablation, Setting

TOKENS = {"model.encoder_unit": "token", "model.max_tokens": 160}  # as many items as 56 vectors
NAMES = {"model.head": "vocabulary", "model.residual": "none", "model.count_from": "start"}
ONE_SEQUENCE = {"finetune.epochs": 20, "finetune.learning_rate": 2e-3}
ONE_TARGET = {**ONE_SEQUENCE, "finetune.targets": "last"}
FROM_START = {"model.residual": "vector", "model.count_from": "start"}
PRETRAINING = {
    "pretrain.epochs": 20,
    "pretrain.batch_size": 256,
    "pretrain.learning_rate": 2e-3,
    "pretrain.weight_decay": 0.0,
    "pretrain.validate_every_epochs": 0,
}


def get_sweep() -> Ablation:
    return Ablation(
        seeds=(0, 1, 2),
        settings={
            "random codes": Setting({"indexing": "random_codes", **TOKENS, **NAMES, **ONE_TARGET}),
            "collaborative codes": Setting({**TOKENS, **NAMES, **ONE_TARGET}),
            "+ one vector an item": Setting({**NAMES, **ONE_TARGET}),
            "+ trie-node output": Setting({**FROM_START, "model.residual": "none", **ONE_TARGET}),
            "+ residual state": Setting({**FROM_START, **ONE_TARGET}),
            "+ all positions": Setting({**FROM_START, **ONE_SEQUENCE, "finetune.targets": "every"}),
            "+ each as an example": Setting(FROM_START),
            "+ positions from the end": Setting({"model.residual": "vector"}),
            "+ residual items": Setting(mix=True),
            "+ pretraining": Setting(PRETRAINING, mix=True),
            "SASRec": Setting(config="configs/sasrec.py:beauty", mix=True),
        },
    )
