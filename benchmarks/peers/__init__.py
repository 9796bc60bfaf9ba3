"""One job in Suture, in other simulators and in code written by hand: ``python -m benchmarks.peers --help``."""
