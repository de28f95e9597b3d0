"""A trained model and histories → ranked items: searches, ranking in batches, files of it."""
