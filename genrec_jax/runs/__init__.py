"""A run: its config, directory, checkpoints, and its set-up from the config."""
