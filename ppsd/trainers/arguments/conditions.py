"""Flags of what a sample has beside its picture: conditioning images, masks, depth maps."""

from __future__ import annotations

from dataclasses import dataclass
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
