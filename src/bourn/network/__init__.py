"""The network that is verified."""
