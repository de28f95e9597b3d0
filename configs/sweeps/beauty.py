"""Ablation on Beauty without the leak: from random codes to `:best`, step by step, three seeds.

    python -m genrec_jax sweep --config=configs/beauty.py:best --sweep=configs/sweeps/beauty.py \\
        --workers=2

Each row builds on the one before. The first four are trained in the paper's two phases (sections
4.2 and 4.3): predict a random masked item, then the next item, with one target per sequence in
either phase. With the trie-node output, the encoder reads one vector per item. In the fifth and
sixth rows, every item of a sequence is a target in one pass, with the dropout of
`configs/beauty.py:best`: first without pretraining, then with it. `best` is that config, without
pretraining; docs/beyond-the-paper.md, "What was tried", takes its changes apart. SASRec, the kNN
and popularity are the baselines. All rows use the last checkpoint and 20 beams (SASRec: exact
ranks), with items of the history excluded.
"""

from genrec_jax.sweeps.spec import Ablation, Setting

# With a dropout of .5 and an init_std of .02, tokens are not learned: the loss stays at chance.
AT_A_MASK = {
    "model.init_std": 0.08,
    "model.dropout": 0.2,
    "model.attention_dropout": 0.2,
    "model.reversed_positions": False,
    "pretrain.epochs": 15,
    "pretrain.batch_size": 128,
    "pretrain.learning_rate": 1.5e-3,
    "pretrain.weight_decay": 1e-2,
    "finetune.epochs": 4,
    "finetune.learning_rate": 5e-4,
}
TOKENS = {  # the paper's model, from tokens to tokens, in the sizes of the rows below
    **AT_A_MASK,
    "data.buckets": 4,
    "model.vocab_size": 512,
    "model.d_model": 64,
    "model.encoder_layers": 2,
    "model.attention_heads": 2,
    "model.ffn_dim": 256,
    "model.activation_dropout": 0.0,
    "model.max_tokens": 80,
    "pretrain.clip_norm": 5.0,
    "finetune.batch_size": 256,
    "finetune.weight_decay": 0.0,
    "finetune.clip_norm": 5.0,
    "evaluate.exclude_history": True,
    "evaluate.validation_users": 0,
}
ONE_TARGET = {**AT_A_MASK, "finetune.targets": "last_only"}
PLAIN = {
    "model.item_init": "random",
    "model.low_pass": 0.0,
    "model.temperature": 0.0,
    "model.reversed_positions": False,
}
ALL_POSITIONS = {
    **PLAIN,
    "model.encoder_prior": "state",
    "finetune.targets": "all_positions",
    "finetune.epochs": 15,
    "finetune.learning_rate": 2e-3,
}
PRETRAINING = {
    "pretrain.epochs": 10,
    "pretrain.batch_size": 256,
    "pretrain.learning_rate": 1e-3,
    "pretrain.weight_decay": 0.0,
}
SMALL = "configs/beauty.py:small"


def get_sweep() -> Ablation:
    return Ablation(
        seeds=(0, 1, 2),
        base={"pretrain.validate_every_epochs": 0, "finetune.validate_every_epochs": 0},
        settings={
            "random codes": Setting({**TOKENS, "indexing": "random_codes"}, config=SMALL),
            "collaborative codes": Setting({**TOKENS, "indexing": "collaborative"}, config=SMALL),
            "+ trie-node output": Setting({**ONE_TARGET, **PLAIN, "model.encoder_prior": "none"}),
            "+ encoder prior state": Setting(
                {**ONE_TARGET, **PLAIN, "model.encoder_prior": "state"}
            ),
            "+ all positions": Setting(ALL_POSITIONS),
            "+ pretraining": Setting({**ALL_POSITIONS, **PRETRAINING}),
            "best": Setting(ensemble=True),
            "SASRec": Setting({"finetune.epochs": 12}, config="configs/sasrec.py:beauty"),
        },
    )
