"""Config keys of versions before 0.2.0, and their replacements."""

_GONE = "no longer exists; "
_CODES = _GONE + "the model over item codes is the family code_genrec, as in configs/beauty.py:best"
_SASREC = "SASRec is the family sasrec, as in configs/sasrec.py"

# Key → the remainder of the error message after `KEY: `.
RENAMED = {
    "config.steps_per_call": "is now called config.steps_per_dispatch",
    "config.finetune.holdout": "is now called config.finetune.include_validation_item: False for "
    "2, True for 1",
    "config.model.count_from": "is now called config.model.reversed_positions: False for 'start', "
    "True for 'end'",
    "config.model.residual": "is now called config.model.encoder_prior: 'state' for 'vector', "
    "'copying' for 'items', 'new_items' for 'unseen'",
    "config.model.item_vectors": "is now called config.model.item_init",
    "config.model.encoder_unit": f"{_CODES}; {_SASREC}",
    "config.model.head": f"{_CODES}; {_SASREC}",
}
