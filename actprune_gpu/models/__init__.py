"""Model adapters: how activations are got out of a network, and what may be pruned in it."""
