"""Shared parts of the config files of the three datasets; not a config itself.

The recipes are the defaults of the model families (genrec_jax/models/*/config.py). This file holds
the settings that depend on the dataset.
"""

from ml_collections import ConfigDict

from genrec_jax.runs.config import check_variant, default_config

PAPER_VARIANTS = ("leakfree", "nopretrain")


def of_family(family: str) -> ConfigDict:
    """Return the default config of a model family."""
    return ConfigDict(default_config(family).to_dict())


def paper(dataset: str, variant: str = "") -> ConfigDict:
    """Return the config of the paper's recipe (section 7.1) for a dataset.

    Args:
        dataset: beauty, sports or yelp.
        variant: `leakfree`, with randomly assigned user and item numbers; `nopretrain`, the
            ablation of Table 3; or "".
    """
    check_variant(variant, PAPER_VARIANTS)
    config = of_family("genrec")
    config.data.name = dataset
    config.model.pretrained = "facebook/bart-base"
    if variant == "leakfree":
        config.indexing = "random"
    if variant == "nopretrain":
        config.pretrain.epochs = 0
    return config


def best(dataset: str) -> ConfigDict:
    """Return the `:best` config: the model over item codes, trained on every sequence prefix."""
    config = beyond_the_paper("code_genrec", dataset)
    config.model.encoder_prior = "new_items" if config.evaluate.exclude_history else "copying"
    return config


def beyond_the_paper(family: str, dataset: str) -> ConfigDict:
    """Return a family's recipe for a dataset, validated on all users.

    Items of the history are excluded from the rankings on datasets without repeat consumption: on
    all but Yelp.
    """
    config = of_family(family)
    config.data.name = dataset
    config.evaluate.exclude_history = dataset != "yelp"
    config.evaluate.validation_users = 0
    config.log_every_steps = 200
    return config
