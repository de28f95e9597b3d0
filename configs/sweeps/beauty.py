"""What each step beyond the paper is worth on Beauty without the leak: three seeds, the test set.

    python -m genrec_jax.sweep --config=configs/beauty.py:best --sweep=configs/sweeps/beauty.py \\
        --workers=2

From the paper's way of writing items to `configs/beauty.py:best`, one change after the other, all
at the same number of epochs; SASRec, the kNN and popularity beside them. 20 beams, SASRec's ranks
exact; items of the history left out.
"""

from genrec_jax.sweeps.spec import Ablation, Setting

EPOCHS = 20  # of all settings
TOKENS = {"model.encoder_unit": "token", "model.max_tokens": 160}  # as many items as 56 vectors
NAMES = {"model.head": "vocabulary", "model.residual": "none"}
ONE_TARGET = {"finetune.targets": "last"}
PRETRAINING = {
    "pretrain.epochs": EPOCHS,
    "pretrain.batch_size": 256,
    "pretrain.learning_rate": 2e-3,
    "pretrain.weight_decay": 0.0,
    "pretrain.validate_every_epochs": 0,
}


def get_sweep() -> Ablation:
    return Ablation(
        seeds=(0, 1, 2),
        base={
            "finetune.epochs": EPOCHS,
            "finetune.learning_rate": 2e-3,
            "finetune.validate_every_epochs": 10,
        },
        settings={
            "random codes": Setting({"indexing": "random_codes", **TOKENS, **NAMES, **ONE_TARGET}),
            "collaborative codes": Setting({**TOKENS, **NAMES, **ONE_TARGET}),
            "+ one vector an item": Setting({**NAMES, **ONE_TARGET}),
            "+ trie-node output": Setting({"model.residual": "none", **ONE_TARGET}),
            "+ residual state": Setting(ONE_TARGET),
            "+ all positions": Setting(mix=True),
            "+ pretraining": Setting(PRETRAINING, mix=True),
            "SASRec": Setting(config="configs/sasrec.py:beauty", mix=True),
        },
    )
