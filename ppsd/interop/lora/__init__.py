"""LoRA and LyCORIS files of every tool, as one neutral form: kohya's, LyCORIS's, diffusers', PEFT's, ppdiffusers'."""

from ppsd.interop.lora.equivalents import as_lora, scale_of
from ppsd.interop.lora.lora_file import FORMS, LoraFile
from ppsd.interop.lora.reading import read_lora
from ppsd.interop.lora.writing import write_lora

__all__ = ["FORMS", "LoraFile", "as_lora", "read_lora", "scale_of", "write_lora"]
