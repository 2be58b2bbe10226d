"""The noise schedule, the random draws, and the objective."""

from ppsd import compat

compat.apply()
