"""RLHF with PPO-max: method, data, evaluation; knows no orchestration and no tracking tool."""

__version__ = "0.1.0"
