"""Rewards: whatever scores a response. A new one is a file and a line in `rlhf.registry`."""
