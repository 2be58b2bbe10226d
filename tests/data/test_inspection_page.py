from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from PIL import Image

from ppsd.data.config import StreamConfig
from ppsd.data.inspection.charts import bars, histogram, scatter
from ppsd.data.inspection.job import make_setup
from ppsd.data.inspection.page import page, write_page
from ppsd.data.inspection.plan import distinct_parts
from ppsd.data.inspection.report import Report, duration, make_report, size
from ppsd.data.inspection.run import inspect_all
from ppsd.data.inspection.terminal import columns_of, report_lines, table_lines
from ppsd.data.source import open_sources
from tests.images import jpeg_bytes, part_line, write_lines, write_lists

CHINESE = "一只红色的猫坐在窗台上"
HOSTILE = "<script>alert('x')</script> & \"quotes\" \x1b[31m"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("data")
    captions = [CHINESE, HOSTILE, "", "red " * 80 + "the end", CHINESE, HOSTILE]
    lines = [part_line(caption, jpeg_bytes(100 + 16 * i, 90, seed=i)) for i, caption in enumerate(captions)]
    lines += [part_line("bad", b"<b>no image</b>"), part_line("small", jpeg_bytes(50, 40))]
    file_list = write_lists(folder, {"a": [write_lines(folder / "part-1", lines), folder / "part-2"]})
    return inspected(file_list)


def inspected(file_list: Path) -> Report:
    from tests.tiny import tiny_tokenizer

    config = StreamConfig(str(file_list), resolution=64, max_length=60, random_flip=True)
    sources = open_sources(config)
    setup = make_setup(config, tiny_tokenizer(), 0, details=True)
    summary = inspect_all(sources, [distinct_parts(source.parts) for source in sources], setup)
    return make_report(sources, config, summary, 0, sampled=False, tokenized=True)


class Tags(HTMLParser):
    """All tags with their attributes, and that they are closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Optional[str]]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "page.html"
    write_page(report, path)
    text = path.read_bytes().decode("utf-8")
    parsed = Tags(text)
    assert parsed.open == []
    names = [name for name, _ in parsed.tags]
    assert {"script", "link", "iframe", "object"} & set(names) == set()
    sources = [
        value or "" for _, attributes in parsed.tags for key, value in attributes.items() if key in ("src", "href")
    ]
    assert len(sources) == 6
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in text
    assert names.count("svg") == 7
    assert 'charset="utf-8"' in text


def test_pictures_are_the_crops(report: Report) -> None:
    pictures = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", "".join(page(report)))
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert sizes == [(64, 64)] * 6


def test_captions_are_escaped_and_cut_where_tokens_end(report: Report) -> None:
    text = "".join(page(report))
    assert "<script>" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;quotes&quot;" in text
    assert f"<td>{CHINESE}</td>" in text
    assert " ".join(["red"] * 58) + " <del>" in text
    assert re.search(r"red <del>[ red]+the end</del><small>86 tokens, ", text)
    assert text.count("<del>") == 1
    assert "(empty caption)" in text
    assert "&lt;b&gt;no im" in text


def test_every_svg_is_well_formed(report: Report) -> None:
    pictures = re.findall(r"<svg.*?</svg>", "".join(page(report)), flags=re.DOTALL)
    for picture in pictures:
        for element in ElementTree.fromstring(picture).iter():
            assert all(np.isfinite(float(element.get(key, 0))) for key in ("x", "y", "width", "height", "cx", "cy"))


def test_verdict_and_notes(report: Report) -> None:
    text = "".join(page(report))
    assert '<p class="verdict can">Training can start.</p>' in text
    assert report.problems == []
    assert len(report.warnings) == 2
    assert "25.0 % of the records cannot be used" in text
    report_facts = dict(report.facts)
    assert report_facts["records"] == "8"
    assert report_facts["usable records"] == "6 (75.0 %)"
    assert report_facts["empty captions"] == "1 (16.7 %)"
    assert report_facts["captions cut at 60 tokens"] == "1 (16.7 %)"
    assert report_facts["missing or damaged parts"] == "1 of 2"


def test_terminal_table(report: Report) -> None:
    lines = list(report_lines(report))
    text = "\n".join(lines)
    assert lines[0].endswith("a.filelist.list: 8 records of all 2 parts")
    assert lines[-1] == "Training can start."
    assert HOSTILE.replace("\x1b", "?") in text
    assert "\x1b" not in text
    assert re.search(r"^  +1  too small +\S+part-1:8 50 x 40, --resolution is 64$", text, flags=re.MULTILINE)
    assert re.search(rf"^  +2  {CHINESE} +\S+part-1:1$", text, flags=re.MULTILINE)
    assert re.search(r"^  width +100 .* 180$", text, flags=re.MULTILINE)


def test_columns_of_chinese_are_wide() -> None:
    assert columns_of("猫a") == 3
    lines = table_lines([("n", "caption", "x"), ("1", "猫猫", "y"), ("22", "abcdefgh", "z\nw")])
    assert lines == [" n  caption   x", " 1  猫猫      y", "22  abcdefgh  z", "              w"]


def heights(svg: str) -> list[float]:
    return [
        float(height)
        for height in re.findall(r'class="bar" x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', svg)
    ]


def test_bars_are_as_high_as_their_counts() -> None:
    svg = histogram(np.repeat([1, 2, 3], [10, 40, 20]), "t", "u")
    assert heights(svg) == pytest.approx([166 * share for share in (0.25, 1, 0.5)], abs=0.1)
    assert [int(count) for count in re.findall(r": (\d+)</title>", svg)] == [10, 40, 20]


def test_outliers_are_in_the_end_bars() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(100, 10, 10_000), [1e9, 1.0]])
    svg = histogram(values, "t", "u", log=True)
    counts = [int(count.replace(",", "")) for count in re.findall(r": ([\d,]+)</title>", svg)]
    assert sum(counts) == 10_002
    assert len(counts) > 30


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[], [5], [5, 5], [0], [0, 0, 7], [1e-3, 1e6]])
def test_plots_of_few_values(values: list[float], log: bool) -> None:
    svg = histogram(np.array(values, float), "t", "u", log=log, mark=3, name="m")
    assert bool(svg) == (any(values) or (bool(values) and not log))
    if svg:
        ElementTree.fromstring(svg)
        assert ("nan" in svg, "inf" in svg) == (False, False)


def test_points_and_reasons() -> None:
    svg = scatter(np.array([100.0, 50.0]), np.array([100.0, 200.0]), np.array([True, False]), "t", "u", 64)
    assert (svg.count('class="point"'), svg.count('class="bad"')) == (1, 1)
    ElementTree.fromstring(svg)
    svg = bars([("a < b", 10), ("c", 5)], "t")
    widths = [float(width) for width in re.findall(r'class="bar bad" x="4" y="\d+" width="([\d.]+)"', svg)]
    assert widths[0] == 2 * widths[1]
    ElementTree.fromstring(svg)
    assert (bars([], "t"), scatter(*[np.zeros(0)] * 3, "t", "u", 64)) == ("", "")


def test_words_for_sizes_and_times() -> None:
    assert [size(count) for count in (0, 999, 1500, 2e9, 3e16)] == ["0 B", "999 B", "1.5 KB", "2.0 GB", "30000.0 TB"]
    assert [duration(s) for s in (0.25, 119, 120, 7200, 1e6)] == [
        *("0.2 seconds", "119.0 seconds", "2.0 minutes", "2.0 hours", "11.6 days")
    ]
