from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from annotators import Served, make_workspace, pair

from rlhf.annotation.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "votes.db", 1)
    found.serve([pair(number, "helpful" if number % 2 else "harmless") for number in range(6)])
    return found


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[int], Served]]:
    served: list[Served] = []

    def start(pairs: int) -> Served:
        make_workspace(tmp_path, pairs)
        served.append(Served(tmp_path))
        return served[-1]

    yield start
    for each in served:
        each.kill()
