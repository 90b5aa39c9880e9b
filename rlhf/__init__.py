"""RLHF with PPO-max: the method, its data and its evaluation, free of any orchestration or tracking tool."""

__version__ = "0.1.0"
