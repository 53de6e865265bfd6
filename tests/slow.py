"""Parameters of a test, of which some are slow."""

from collections.abc import Collection, Iterable

import pytest


def parameters(names: Iterable[object], slow: Collection[object]) -> list:
    """All of these, those of `slow` marked so."""
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in names]
