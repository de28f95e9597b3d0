"""Prepare a raw interaction log: read, check, filter, number and write it as a dataset."""
