"""The folder of a study: what stands in it, how it is written, read and verified."""
