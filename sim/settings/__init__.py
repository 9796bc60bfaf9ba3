"""The tables of a scenario file as frozen objects, each checked by itself."""
