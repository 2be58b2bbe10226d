"""LoRA and its relatives: small trained layers beside the frozen ones of a UNet or text encoder."""

from ppsd import compat

compat.apply()
