"""When a run in a pool is taken for dead, and what is said of it: time is that of a clock that the tests turn."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, Log
from prefect.client.schemas.sorting import LogSort
from prefect.states import Completed, Pending, Running, Scheduled, State

from flows import pools
from flows.pools import RunWatch

POOL = "gpu"
SILENCE = 100.0


class Server:
    """A Prefect server that answers with the next of its answers, and a clock that each look moves on."""

    def __init__(self, *answers: Callable[[], tuple[State, str | None]]) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.set_states: list[str] = []
        self.log: list[Log] = []
        self._answers = iter(answers)
        self._beat: str | None = None
        self._run = uuid4()

    def read_flow_run(self, _run_id: object) -> FlowRun:
        self.now += 60.0
        state, self._beat = next(self._answers)()
        return FlowRun(id=self._run, name="sft", flow_id=uuid4(), state=state)

    def read_logs(self, _of_run: object, *, offset: int, limit: int, sort: object) -> list[Log]:
        assert sort == LogSort.TIMESTAMP_DESC
        return self.log[::-1][offset : offset + limit]

    def request(self, *_: object, **__: object) -> Any:
        events = [{"id": self._beat}] if self._beat else []
        return SimpleNamespace(json=lambda: {"events": events})

    def set_flow_run_state(self, _run_id: object, state: State, force: bool) -> None:
        assert force
        self.set_states.append(str(state.name))

    def watch(self) -> FlowRun:
        client: Any = self
        return RunWatch(client, self._run, POOL, SILENCE, self.told.append, lambda: self.now).wait()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools.time, "sleep", lambda _: None)


def gives(state: State, beat: str | None = None) -> Callable[[], tuple[State, str | None]]:
    return lambda: (state, beat)


def away() -> tuple[State, str | None]:
    raise httpx.ConnectError("refused")


def test_one_that_is_silent_is_taken_up_by_another() -> None:
    running = Running()
    server = Server(*[gives(running, "beat")] * 3, gives(Completed()))
    assert server.watch().state is not None
    assert server.set_states == ["AwaitingRetry"]


def test_heartbeats_and_states_are_signs_of_life() -> None:
    running = Running()
    beats = [gives(running, f"beat {number}") for number in range(9)]
    server = Server(gives(Pending()), *beats, gives(Completed()))
    server.watch()
    assert server.set_states == []


def test_one_that_waits_for_a_worker_is_not_dead() -> None:
    scheduled = Scheduled()
    server = Server(*[gives(scheduled)] * 5, gives(Completed()))
    server.watch()
    assert server.set_states == []


def test_while_the_server_is_away_nobody_is_dead() -> None:
    running = Running()
    server = Server(
        gives(running, "beat"), away, away, away, gives(running, "beat"), gives(Completed())
    )
    server.watch()
    assert server.set_states == []
    assert len([line for line in server.told if "does not answer" in line]) == 1


def test_without_any_heartbeat_nobody_is_called_dead() -> None:
    running = Running()
    server = Server(*[gives(running)] * 6, gives(Completed()))
    server.watch()
    assert server.set_states == []
    assert len([line for line in server.told if "websocket" in line]) == 1


def test_one_that_dies_before_it_runs_is_taken_up() -> None:
    pending = Pending()
    server = Server(*[gives(pending)] * 3, gives(Completed()))
    server.watch()
    assert server.set_states == ["AwaitingRetry"]


def test_a_password_that_is_refused_is_not_waited_for() -> None:
    def refused() -> tuple[State, str | None]:
        request = httpx.Request("GET", "http://127.0.0.1/api")
        response = httpx.Response(401, request=request)
        raise httpx.HTTPStatusError("unauthorized", request=request, response=response)

    with pytest.raises(httpx.HTTPStatusError):
        Server(refused).watch()


def test_the_log_of_the_run_is_said_line_by_line_and_once() -> None:
    def writes(count: int, state: State) -> Callable[[], tuple[State, str | None]]:
        def answer() -> tuple[State, str | None]:
            written = len(server.log)
            server.log += [log_line(number) for number in range(written, written + count)]
            return state, "beat"

        return answer

    # more than Prefect gives at once, nothing, and a last one with the end
    server = Server(
        writes(3, Running()), writes(450, Running()), gives(Running()), writes(1, Completed())
    )
    server.watch()
    said = [line for line in server.told if "step" in line]
    assert said == [f"gpu: step {number}" for number in range(454)]


def log_line(number: int) -> Log:
    now = datetime.now(UTC)
    return Log(name="sft", level=20, message=f"step {number}", timestamp=now, flow_run_id=uuid4())
