"""Adapters of `rlhf` to DVC, Prefect and MLflow: they take and return paths and small records."""

from tasks.environment import prepare_environment

# before any of the three is imported: each reads its switches once
prepare_environment()
