"""The documented name of the tests in `optimizer.testing.pytest_suite`, for `pytest --pyargs`."""

from .testing.pytest_suite import *  # noqa: F403 pytest collects the names in this module
