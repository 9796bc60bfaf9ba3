"""Everything that follows from counts, before any training: participation, traffic, time, epsilon."""
