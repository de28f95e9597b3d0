"""Many runs of one config, as an ablation or a search: trials side by side and their table."""
