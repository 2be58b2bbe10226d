"""Pictures from prompts: previews and grids."""

from ppsd import compat

compat.apply()
