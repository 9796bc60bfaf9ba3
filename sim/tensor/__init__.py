"""The lane program: forward, backward, per-sample norms, optimisers and metrics over stacked copies of a part."""
