"""Prefect flows: one module a stage, the pipeline through DVC, and what serves and shows them."""

# sets the environment before Prefect is imported
import tasks  # noqa: F401
