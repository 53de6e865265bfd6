"""What a user's type checker sees of the library is there; tests/users_script.py has what it says of a script."""

import importlib

import pytest


@pytest.mark.parametrize("room", ["", ".data", ".evaluation", ".qat", ".training", ".zoo"])
def test_names_that_a_type_checker_sees_are_there(room):
    module = importlib.import_module(f"attnround{room}")
    assert all(hasattr(module, name) for name in module.__all__)
