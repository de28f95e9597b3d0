"""What each step beyond the paper is worth on Beauty without the leak: three seeds, the test set.

    python -m genrec_jax.sweep --config=configs/beauty.py:best --sweep=configs/sweeps/beauty.py \\
        --workers=2

From the paper's way of writing items to `configs/beauty.py:best`, one change after the other, but
the last: what README's "What was tried" tells apart. SASRec, the kNN and popularity beside them.
15 epochs where a sequence is one example, 8 where each of its prefixes is, 12 for SASRec, which
starts from chance; the checkpoint at the end. 20 beams, SASRec's ranks exact; items of the history
left out.
"""

from genrec_jax.sweeps.spec import Ablation, Setting

PLAIN = {
    "model.item_vectors": "random",
    "model.low_pass": 0.0,
    "model.temperature": 0.0,
    "model.count_from": "start",
}
ONE_SEQUENCE = {**PLAIN, "finetune.epochs": 15, "finetune.learning_rate": 2e-3}
# With a target a user and dropout of .5, tokens are not learned at all: the loss stays at chance.
ONE_TARGET = {
    **ONE_SEQUENCE,
    "finetune.targets": "last",
    "model.init_std": 0.08,
    "model.dropout": 0.2,
    "model.attention_dropout": 0.2,
}
NAMES = {  # tokens in, tokens out
    "model.encoder_unit": "token",
    "model.max_tokens": 80,
    "model.head": "vocabulary",
    "model.residual": "none",
}
VECTOR = {"model.residual": "vector"}
PRETRAINING = {
    "pretrain.epochs": 10,
    "pretrain.batch_size": 256,
    "pretrain.learning_rate": 1e-3,
    "pretrain.weight_decay": 0.0,
}


def get_sweep() -> Ablation:
    return Ablation(
        seeds=(0, 1, 2),
        base={"pretrain.validate_every_epochs": 0, "finetune.validate_every_epochs": 0},
        settings={
            "random codes": Setting({**ONE_TARGET, **NAMES, "indexing": "random_codes"}),
            "collaborative codes": Setting({**ONE_TARGET, **NAMES}),
            "+ trie-node output": Setting({**ONE_TARGET, "model.residual": "none"}),
            "+ residual state": Setting({**ONE_TARGET, **VECTOR}),
            "+ all positions": Setting({**ONE_SEQUENCE, **VECTOR, "finetune.targets": "every"}),
            "best": Setting(mix=True),
            "+ pretraining": Setting(PRETRAINING),
            "SASRec": Setting({"finetune.epochs": 12}, config="configs/sasrec.py:beauty"),
        },
    )
