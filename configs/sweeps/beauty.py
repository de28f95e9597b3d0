"""From random codes to `:best`, step by step, on Beauty without the leak: three seeds, the test.

    python -m genrec_jax sweep --config=configs/beauty.py:best --sweep=configs/sweeps/beauty.py \\
        --workers=2

Each row goes on from the one before. The first four are trained as the paper has it, 4.2 and
4.3: a random item masked, then the next one, one target a sequence in either phase. The trie comes
with one vector an item in the encoder. In the fifth and sixth every item of a sequence is a target
of one pass, at the dropout of `configs/beauty.py:best`: without pretraining, then with it. `best`
is that config, without pretraining; README's "What was tried" takes apart what it changes in one.
SASRec, the kNN and popularity beside them. The checkpoint at the end; 20 beams, SASRec's ranks
exact; items of the history left out.
"""

from genrec_jax.sweeps.spec import Ablation, Setting

# With dropout of .5 and std of .02 tokens are not learned at all: the loss stays at chance.
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
TOKENS = {  # the paper's model: tokens in, tokens out, in the sizes of the rows below
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
            "+ residual state": Setting({**ONE_TARGET, **PLAIN, "model.encoder_prior": "state"}),
            "+ all positions": Setting(ALL_POSITIONS),
            "+ pretraining": Setting({**ALL_POSITIONS, **PRETRAINING}),
            "best": Setting(mix=True),
            "SASRec": Setting({"finetune.epochs": 12}, config="configs/sasrec.py:beauty"),
        },
    )
