"""Foundations of all packages: errors and exit codes, config fields, devices, processes, files."""
