"""What knows nothing of the field: random streams, problems, units, files, hash chains."""
