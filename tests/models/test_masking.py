"""User dropout: the share of dropped users, and the encoder's input without a user."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec.inputs import encoder_input
from genrec_jax.models.masking import drop_users
from genrec_jax.models.tables import put_on_device


def test_users_are_dropped_at_the_given_rate() -> None:
    users = jnp.arange(20_000)
    kept = np.asarray(drop_users(jax.random.key(0), users, 0.3))
    assert set(np.unique(kept[kept != users])) == {-1}
    assert abs(np.mean(kept == -1) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(kept))
    assert drop_users(jax.random.key(0), users, 0.0) is users


def test_the_input_of_a_dropped_user_has_items_only(catalogue: Catalogue) -> None:
    table = put_on_device(catalogue.table)
    items = jnp.array([[3, 5, table.mask_row]])
    found = encoder_input(table, jnp.array([-1]), items, 16)
    identifiers = [
        catalogue.table.tokens[row, : catalogue.table.lengths[row]] for row in (3, 5, 40)
    ]
    expected = np.concatenate([[table.bos], *identifiers, [table.eos]])
    np.testing.assert_array_equal(found.tokens[0, : len(expected)], expected)
    assert np.all(np.asarray(found.tokens[0, len(expected) :]) == table.pad)
    assert 0 not in np.asarray(found.segments)  # segment 0 is the user's
