"""What the server does: one file an algorithm, each a Flower Strategy."""
