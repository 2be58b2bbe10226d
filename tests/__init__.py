"""A package, so that `from tests.images import ...` finds this folder before any other `tests` on the path."""
