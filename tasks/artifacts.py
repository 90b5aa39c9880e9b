"""Tables on Prefect's page of a run."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
from prefect.artifacts import create_table_artifact
from prefect.exceptions import PrefectException

Rows = list[dict[str, Any]]


def summary_rows(summary: Mapping[str, Any], value: str = "value") -> Rows:
    """Turn a flat summary into the rows of a table; `value` is the title of its second column."""
    return [{"metric": key, value: summary[key]} for key in sorted(summary)]


def show_table(key: str, rows: Rows, description: str) -> None:
    """Show a table in Prefect; a server that was lost must not cost the result."""
    # both: a server that answers no more, and one that refuses
    with suppress(httpx.HTTPError, PrefectException):
        create_table_artifact(rows, key=key, description=description)
