"""Every call of the room is checked against its annotations."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def shapes_are_checked(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)
