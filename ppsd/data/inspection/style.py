"""The style sheet of the report's page, for light and dark screens."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --text: #1d2433; --soft: #5c667a; --line: #dfe3ea; --back: #f6f7f9; --card: #fff;
  --bar: #3b74c9; --bad: #c8503c; --good: #2c8a57; --mark: #d08700; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e7ef; --soft: #98a3b8; --line: #333a48; --back: #14171d;
  --card: #1c2028; --bar: #6b9fe8; --bad: #e57f6b; --good: #5fc08b; --mark: #e8b04a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 24px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 22px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 32px 0 10px; }
p { margin: 4px 0; }
.soft { color: var(--soft); }
.verdict { display: inline-block; margin: 12px 0; padding: 6px 14px;
  border-radius: 6px; color: #fff; font-weight: 600; }
.can { background: var(--good); } .cannot { background: var(--bad); }
.note { border-left: 4px solid var(--mark); padding: 4px 10px; margin: 6px 0; background: var(--card);
  overflow-wrap: anywhere; }
.note.problem { border-color: var(--bad); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 10px; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
.fact b { display: block; font-size: 17px; font-weight: 600; }
.fact span { color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 12px; align-items: start; }
svg { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px; width: 100%; }
svg text { fill: var(--text); font-size: 11px; } svg .title { font-size: 13px; font-weight: 600; }
svg .tick, svg .label { fill: var(--soft); } svg .marked { fill: var(--mark); font-weight: 600; }
.axis, .grid { fill: none; stroke: var(--line); } .bar, .point { fill: var(--bar); }
.bar.bad, circle.bad { fill: var(--bad); }
circle { fill-opacity: .45; } .mark { fill: none; stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 5 3; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); font-size: 13.5px;
  width: 100%; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: 8px 10px; font-size: 13px; overflow-wrap: anywhere; max-height: 220px; overflow-y: auto; }
figcaption small { display: block; color: var(--soft); }
del { color: var(--bad); text-decoration: none; }
"""
