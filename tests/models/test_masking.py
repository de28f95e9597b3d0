"""User dropout: the share that loses its user, and that the sentence then begins with an item."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec.inputs import encoder_input
from genrec_jax.models.masking import drop_users
from genrec_jax.models.tables import put_on_device


def test_a_share_of_the_examples_loses_its_user() -> None:
    users = jnp.arange(20_000)
    kept = np.asarray(drop_users(jax.random.key(0), users, 0.3))
    assert set(np.unique(kept[kept != users])) == {-1}
    assert abs(np.mean(kept == -1) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(kept))
    assert drop_users(jax.random.key(0), users, 0.0) is users


def test_without_its_user_a_sentence_is_its_items_alone(catalogue: Catalogue) -> None:
    table = put_on_device(catalogue.table)
    items = jnp.array([[3, 5, table.mask_row]])
    found = encoder_input(table, jnp.array([-1]), items, 16)
    names = [catalogue.table.tokens[row, : catalogue.table.lengths[row]] for row in (3, 5, 40)]
    sentence = np.concatenate([[table.bos], *names, [table.eos]])
    np.testing.assert_array_equal(found.tokens[0, : len(sentence)], sentence)
    assert np.all(np.asarray(found.tokens[0, len(sentence) :]) == table.pad)
    assert 0 not in np.asarray(found.slots)  # slot 0 is the user's
