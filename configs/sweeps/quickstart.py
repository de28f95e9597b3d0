"""Ablation of user dropout and pretraining for the quickstart's model, with three seeds.

python -m genrec_jax sweep --config=configs/quickstart.py --sweep=configs/sweeps/quickstart.py
"""

from genrec_jax.sweeps.spec import Ablation, Setting


def get_sweep() -> Ablation:
    return Ablation(
        seeds=(0, 1, 2),
        settings={
            "no user dropout": Setting({"model.user_dropout": 0.0}),
            "user dropout 0.5": Setting({"model.user_dropout": 0.5}, ensemble=True),
            "no pretraining": Setting({"pretrain.epochs": 0}),
        },
    )
