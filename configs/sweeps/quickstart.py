"""What dropping the user's name, and no pretraining, do to the quickstart's model: three seeds.

python -m genrec_jax sweep --config=configs/quickstart.py --sweep=configs/sweeps/quickstart.py
"""

from genrec_jax.sweeps.spec import Ablation, Setting


def get_sweep() -> Ablation:
    return Ablation(
        seeds=(0, 1, 2),
        settings={
            "users always named": Setting({"model.user_dropout": 0.0}),
            "in half of the examples": Setting({"model.user_dropout": 0.5}, mix=True),
            "no pretraining": Setting({"pretrain.epochs": 0}),
        },
    )
