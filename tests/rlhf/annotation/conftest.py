from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from annotators import AnnotateServer, make_pairs, make_workspace

from rlhf.annotation.store import VoteStore


@pytest.fixture
def store(tmp_path: Path) -> VoteStore:
    """Six pairs, harmless and helpful in turn, without votes."""
    store = VoteStore(tmp_path / "votes.db", 1)
    store.serve(make_pairs(6))
    return store


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[[int], AnnotateServer]]:
    """Starts `rlhf annotate` over so many pairs; it is killed after the test."""
    servers: list[AnnotateServer] = []

    def start(pairs: int) -> AnnotateServer:
        make_workspace(tmp_path, pairs)
        servers.append(AnnotateServer(tmp_path))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
