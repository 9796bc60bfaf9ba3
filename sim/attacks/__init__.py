"""What an adversary makes of a run."""
