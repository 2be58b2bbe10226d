"""Captions for images that come without: sentences with a place for the name of what they show."""

from __future__ import annotations

from pathlib import Path

PLACE = "{}"
A1111_PLACE = "[name]"

# imagenet_templates_small and imagenet_style_templates_small of the public textual inversion scripts
OBJECT = """
a photo of a {}
a rendering of a {}
a cropped photo of the {}
the photo of a {}
a photo of a clean {}
a photo of a dirty {}
a dark photo of the {}
a photo of my {}
a photo of the cool {}
a close-up photo of a {}
a bright photo of the {}
a cropped photo of a {}
a photo of the {}
a good photo of the {}
a photo of one {}
a close-up photo of the {}
a rendition of the {}
a photo of the clean {}
a rendition of a {}
a photo of a nice {}
a good photo of a {}
a photo of the nice {}
a photo of the small {}
a photo of the weird {}
a photo of the large {}
a photo of a cool {}
a photo of a small {}
""".strip().split("\n")
STYLE = """
a painting in the style of {}
a rendering in the style of {}
a cropped painting in the style of {}
the painting in the style of {}
a clean painting in the style of {}
a dirty painting in the style of {}
a dark painting in the style of {}
a picture in the style of {}
a cool painting in the style of {}
a close-up painting in the style of {}
a bright painting in the style of {}
a cropped painting in the style of {}
a good painting in the style of {}
a close-up painting in the style of {}
a rendition in the style of {}
a nice painting in the style of {}
a small painting in the style of {}
a weird painting in the style of {}
a large painting in the style of {}
""".strip().split("\n")
TEMPLATES = {"object": tuple(OBJECT), "style": tuple(STYLE)}


def read_templates(path: str, flag: str) -> tuple[str, ...]:
    """One a line, with {} (or A1111's [name]) where the name goes. Raises ValueError naming the flag, file and line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"--{flag} {path}: cannot be read: {error}") from error
    templates = []
    for number, line in enumerate(lines, 1):
        template = line.strip().replace(A1111_PLACE, PLACE)
        if template and template.count(PLACE) != 1:
            raise ValueError(f"--{flag} {path}:{number}: {{}} must be in it once, where the name goes")
        templates += [template] if template else []
    if not templates:
        raise ValueError(f"--{flag} {path} has no line; a caption with {{}} is needed")
    return tuple(templates)
