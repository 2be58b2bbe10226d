"""Flags of what a sample has beside its picture: conditioning images, masks, depth maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Optional

from ppsd.data.annotators import ANNOTATORS, MODELS, hand_in
from ppsd.data.masks import COVERAGE, KINDS
from ppsd.models.annotators import load_annotator
from ppsd.trainers.arguments.flag import flag

_WHERE = "in a folder's metadata, a data set, parquet or LAION parts; in tars the name before the image's extension."

hand_in(load_annotator)  # the data know no networks


@dataclass
class ConditionArguments:
    """Flags of what a sample has beside its picture: conditioning images, masks, depth maps."""

    conditioning_image_column: Optional[str] = flag(
        None, f"Column of the conditioning image {_WHERE} Default: conditioning_image."
    )
    mask_column: Optional[str] = flag(
        None, "Column of the mask: light is painted anew. Default: mask; records without one get --mask_kinds."
    )
    depth_column: Optional[str] = flag(None, "Column of the depth map: light is near. Default: depth.")
    annotator: Optional[str] = flag(
        None,
        f"Makes the condition of the crop where a record has none in its column: {', '.join(ANNOTATORS)}, maybe with"
        f" numbers (canny:50,150); with --annotator_model {', '.join(MODELS)}.",
    )
    annotator_model: Optional[str] = flag(
        None,
        "Network of the annotator: a folder, a .safetensors file (hed), or a name on the hub. It needs"
        " --dataloader_num_workers 0; tools/annotate.py runs it once for all epochs.",
    )
    mask_kinds: Optional[str] = flag(
        ",".join(KINDS), "Masks that are drawn, separated by commas: rectangles, strokes, ellipses, full."
    )
    mask_coverage: float = flag(COVERAGE, "Share of the picture that drawn masks cover on average.")

    def check_conditions(self, conditions: Sequence[str], cache_latents: bool, num_workers: int) -> None:
        """Raise ValueError, naming the flag, for what has no say or cannot act. conditions: of Method."""
        if self.annotator_model is not None and num_workers:
            raise ValueError(
                f"--annotator {self.annotator} is a network, which data workers cannot run: give"
                " --dataloader_num_workers 0, or write a column with tools/annotate.py"
            )
        usual = {each.name: each.default for each in fields(ConditionArguments)}
        for name in ("mask_kinds", "mask_coverage"):
            if getattr(self, name) != usual[name] and "mask" not in conditions:
                raise ValueError(f"--{name} acts only where a mask is needed; leave it out")
            if getattr(self, name) != usual[name] and self.mask_column is not None:
                raise ValueError(f"--{name} and --mask_column both say what the mask is; give one of them")
        if self.annotator is not None and cache_latents:
            raise ValueError(
                "--annotator with --cache_latents: it acts on pixels; write a column with tools/annotate.py"
            )
