"""Prefect flows: one module a stage, the pipeline that goes through DVC, and what serves and shows them."""

import tasks  # noqa: F401 - sets the environment before Prefect is imported
