"""The on-policy algorithms that there are, by the settings that choose them."""

from collections.abc import Mapping
from typing import Any

import pytest
from tiny import APA

PPO_MAX: Mapping[str, Any] = {}
MEMBERS: Mapping[str, Mapping[str, Any]] = {"ppo-max": PPO_MAX, "apa": APA}

each_member = pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
