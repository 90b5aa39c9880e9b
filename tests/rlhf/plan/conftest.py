"""Shapes that the tests of plans share."""

import pytest

from rlhf.plan.shapes import KNOWN, ModelShape, read_shape


def known(name: str) -> ModelShape:
    config, source = KNOWN[name]
    return read_shape(config, name, source)


@pytest.fixture(scope="session")
def llama() -> ModelShape:
    return known("llama-7b")


@pytest.fixture(scope="session")
def smollm() -> ModelShape:
    return known("smollm2-135m")
