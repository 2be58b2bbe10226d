"""An inspection in words and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ppsd.interop.lora.inspection import Inspection

SHOWN = (
    ("base model", ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture")),
    ("network", ("ss_network_module", "ss_network_args")),
    ("dim and alpha", ("ss_network_dim", "ss_network_alpha")),
    ("steps, epochs", ("ss_steps", "ss_epoch")),
    ("learning rates", ("ss_learning_rate", "ss_unet_lr", "ss_text_encoder_lr")),
    ("optimizer", ("ss_optimizer", "ss_lr_scheduler")),
    ("resolution, batch", ("ss_resolution", "ss_total_batch_size", "ss_batch_size_per_device")),
    ("images", ("ss_num_train_images", "ss_num_reg_images")),
    ("title", ("modelspec.title", "ss_output_name")),
    ("date", ("modelspec.date",)),
    ("comment", ("ss_training_comment",)),
)
TAGS = "ss_tag_frequency"


def text_lines(found: Inspection) -> Iterator[str]:
    """What the file is, its metadata, a table of blocks, and what is wrong."""
    parameters = sum(layer.parameters for layer in found.layers)
    yield f"{found.path}: {found.form}, {found.num_bytes / 1e6:.2f} MB"
    yield f"{len(found.layers)} layers, {parameters:,} parameters"
    for name in ("algorithm", "rank", "alpha"):
        yield f"{name + ':':<20}{_counted(found.count(name))}"
    yield from metadata_lines(found.metadata)
    for name, right in found.hashes.items():
        yield f"{name + ':':<28}{'right' if right else 'WRONG: the file has been changed since'}"
    yield ""
    yield from table(found)
    yield from (f"PROBLEM: {text}" for text in found.problems)
    yield from (f"warning: {text}" for text in found.warnings)


def table(found: Inspection) -> Iterator[str]:
    """A row a block. The last column, with a base: the norm of the change in per cent of the weights' own."""
    with_base = any(block.base_norm for block in found.blocks)
    head = ["block", "kohya", "layers", "parameters", "norm", *(["of the base"] if with_base else [])]
    rows = [head]
    for facts in found.blocks:
        row = [facts.block.name, facts.block.label, str(facts.layers), f"{facts.parameters:,}", f"{facts.norm:.4g}"]
        if with_base:
            row.append(f"{facts.norm / facts.base_norm:.2%}" if facts.base_norm else "")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        yield "  ".join(cells).rstrip()


def metadata_lines(metadata: Mapping[str, str]) -> Iterator[str]:
    """The fields of kohya's tools that say most, the commonest tags, and the names of the other fields."""
    known = {TAGS}
    for title, names in SHOWN:
        known.update(names)
        texts = [metadata[name] for name in names if metadata.get(name) not in (None, "", "None", "{}")]
        if texts:
            yield f"{title + ':':<20}{', '.join(dict.fromkeys(texts))}"
    tags = top_tags(metadata.get(TAGS, ""))
    if tags:
        yield f"{'commonest tags:':<20}{', '.join(f'{tag} ({count})' for tag, count in tags)}"
    others = sorted(set(metadata) - known)
    if others:
        yield f"{'other entries:':<20}{', '.join(others)}"


def top_tags(text: str, most: int = 10) -> list[tuple[str, int]]:
    """Of kohya's {folder: {tag: count}}; empty for anything else."""
    try:
        folders: Any = json.loads(text or "{}")
        counts: Counter[str] = Counter()
        for tags in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError):
        return []
    return counts.most_common(most)


def as_json(found: Inspection) -> dict[str, Any]:
    """The same for programs."""
    return {
        "file": str(found.path),
        "form": found.form,
        "bytes": found.num_bytes,
        "layers": [{**asdict(layer), "place": layer.place._asdict()} for layer in found.layers],
        "blocks": [
            {"block": facts.block.name, "label": facts.block.label, **_numbers(facts)} for facts in found.blocks
        ],
        "metadata": found.metadata,
        "hashes": found.hashes,
        "problems": found.problems,
        "warnings": found.warnings,
    }


def _numbers(facts: Any) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in ("layers", "parameters", "norm", "base_norm")}


def _counted(counts: Mapping[Any, int]) -> str:
    """8 (190 layers), 4 (2)"""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    texts: Sequence[str] = [f"{value:g}" if isinstance(value, float) else str(value) for value, _ in ordered]
    return ", ".join(f"{text} ({count})" for text, (_, count) in zip(texts, ordered))
