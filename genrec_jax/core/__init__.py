"""What every package uses: errors and exit codes, config fields, devices, processes, files."""
