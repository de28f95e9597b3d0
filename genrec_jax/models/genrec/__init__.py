"""The genrec family, the model of the paper: BART with user and item id tables."""
