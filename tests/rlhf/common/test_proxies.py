import importlib.util
from typing import Any

import pytest

from rlhf.common.errors import RlhfError
from rlhf.common.proxies import refuse_socks_proxy


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def package(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("all_proxy", "socks5h://proxy.example:1080"),
        ("https_proxy", "SOCKS5://u:secret@proxy.example:1080"),
    ],
)
def test_a_socks_proxy_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    package(monkeypatch, None)
    monkeypatch.setenv(variable, address)
    with pytest.raises(
        RlhfError, match=f"^{variable}=.*pip install socksio.*unset {variable}$"
    ) as told:
        refuse_socks_proxy()
    assert "secret" not in str(told.value) and "\n" not in str(told.value)
    package(monkeypatch, object())
    refuse_socks_proxy()


def test_other_proxies_and_none_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch, None)
    refuse_socks_proxy()
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "localhost")
    refuse_socks_proxy()
