"""Names of the adversaries whose epsilons tables show."""

ADVERSARIES = {"epsilon_model_user": "Model user", "epsilon_peer": "Peer clinic", "epsilon_server": "Server"}
"""Column of `runs` with an adversary's epsilon, and the adversary's name."""

EDGE_SERVER = {"epsilon_edge": "Edge server"}
"""The same where a run has edge servers."""

BETWEEN_PARTIES = {"epsilon_peer": "Peer party"}
"""Other names where clinics are parties."""
