"""Prefect's page, by the calls that it makes itself."""

import time
from typing import Any

import httpx

from tests.waiting import SECONDS


class Page:
    """What a user does on Prefect's page."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=f"{address}/api", timeout=SECONDS, trust_env=False)

    def post(self, path: str, content: Any = None) -> Any:
        answer = self._ask("POST", path, json=content or {})
        return answer.json() if answer.content else None

    def get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def delete(self, path: str) -> None:
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        answer = self._client.request(method, path, **content)
        # its database is locked by another writer: a user would click again
        while answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            time.sleep(1.0)
            answer = self._client.request(method, path, **content)
        assert answer.is_success, answer.text
        return answer

    def deployments(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.post("/deployments/filter")}

    def run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """*Custom run*."""
        path = f"/deployments/{self.deployments()[deployment]['id']}/create_flow_run"
        return str(
            self.post(path, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"]
        )

    def state(self, run: str) -> str:
        return str(self.get(f"/flow_runs/{run}")["state_type"])

    def set_state(self, run: str, kind: str, name: str) -> None:
        self.post(
            f"/flow_runs/{run}/set_state", {"state": {"type": kind, "name": name}, "force": True}
        )

    def artifacts(self) -> dict[str, dict[str, Any]]:
        return {one["key"]: one for one in self.post("/artifacts/latest/filter")}
