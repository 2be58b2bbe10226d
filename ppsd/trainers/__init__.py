"""The training loop and everything around it."""

from ppsd import compat

compat.apply()
