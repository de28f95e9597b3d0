"""Search for the quickstart's learning rates and regularisation by its validation NDCG@10.

    python -m genrec_jax sweep --config=configs/quickstart.py \\
        --sweep=configs/sweeps/quickstart_search.py
"""

from genrec_jax.sweeps.spec import Range, Search


def get_sweep() -> Search:
    return Search(
        ranges={
            "pretrain.learning_rate": Range(3e-4, 1e-2, log=True),
            "finetune.learning_rate": Range(3e-4, 1e-2, log=True),
            "finetune.weight_decay": Range(1e-4, 1e-1, log=True),
            "model.dropout": Range(0.0, 0.5),
        },
        trials=12,
        first_trials=4,
    )
