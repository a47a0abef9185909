"""The look of the report: system fonts, colours that colour-blind readers can tell apart (after Okabe and Ito), light
and dark, narrow and wide."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --page: #fdfdfb; --ink: #22262b; --quiet: #636b74; --rule: #e2e4e1; --soft: #f3f4f1;
  --accent: #0064a8; --differs: #c44b00;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b5578f; --c4: #b98200; --c5: #2b9bd4; --c6: #6b6f75;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16191d; --ink: #e4e6e8; --quiet: #9aa3ad; --rule: #30363d; --soft: #1e2227;
    --accent: #5db0ee; --differs: #ff8d4a;
    --c0: #4aa3e8; --c1: #ff8340; --c2: #2fc798; --c3: #e59ac6; --c4: #f0b53c; --c5: #9ad6f7; --c6: #b4bac1;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 27px; font-weight: 600; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 4px;
  overflow-wrap: anywhere; }
h2 { font-size: 18px; font-weight: 600; margin: 44px 0 4px; padding-top: 18px; border-top: 1px solid var(--rule); }
h3 { font-size: 14px; font-weight: 600; margin: 22px 0 6px; }
p { margin: 4px 0 12px; max-width: 76ch; overflow-wrap: anywhere; }
.quiet, figcaption, p.lead, td.unit { color: var(--quiet); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 4px 32px;
  margin: 20px 0 0; }
dl div { display: flex; gap: 12px; border-bottom: 1px solid var(--rule); padding: 3px 0; min-width: 0; }
dt { color: var(--quiet); flex: 0 0 104px; }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.meanings { font-size: 13px; gap: 0 32px; margin-top: 12px; }
.meanings div { border: 0; padding: 1px 0; } .meanings dd { color: var(--quiet); } .meanings dt { color: var(--ink); }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
.numbers { min-width: 100%; }
.numbers th, .numbers td { padding: 5px 7px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
.numbers thead th { color: var(--quiet); font-weight: 500; vertical-align: bottom; white-space: normal;
  line-height: 1.25; }
.numbers .word { text-align: left; }
.numbers tbody tr:hover { background: var(--soft); }
.law { border-radius: 9px; padding: 1px 8px; font-size: 12px; border: 1px solid var(--accent); color: var(--accent); }
.law.relaxed, .law.approximate { border-color: var(--differs); color: var(--differs); }
.law.approximate { border-style: dashed; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 12px 36px; }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr)); gap: 20px 28px; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 540px; overflow: visible; }
.small figure svg { max-width: 250px; }
.small figure svg[data-kind=map] { max-height: 150px; margin: 4px 0; }
.small + .small { margin-top: 20px; }
figcaption { font-size: 12.5px; line-height: 1.35; }
figcaption b { color: var(--ink); font-weight: 600; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  fill: var(--quiet); }
svg .label { fill: var(--ink); } svg .title { font-size: 12px; }
svg .grid { stroke: var(--rule); } svg .level { stroke: var(--quiet); stroke-dasharray: 4 4; }
svg .full { stroke: var(--page); stroke-width: 1; } svg .hollow { fill: var(--page); stroke-width: 2; }
svg .cell { fill: var(--accent); } svg .none { fill: none; } svg .frame { fill: none; stroke: var(--rule); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; padding: 0; margin: 6px 0 0;
  font-size: 13.5px; }
.legend svg { width: 16px; height: 16px; vertical-align: -3px; margin-right: 6px; }
.ramp { display: inline-block; width: 90px; height: 10px; vertical-align: -1px; margin: 0 6px;
  border: 1px solid var(--rule); background: linear-gradient(to right, transparent, var(--accent)); }
.seeds { border-spacing: 5px 4px; border-collapse: separate; font-size: 12.5px; }
.seeds th { font-weight: 500; text-align: left; position: sticky; left: 0; background: var(--page); z-index: 1;
  min-width: 112px; max-width: 190px; padding-right: 8px; }
.seeds thead th, .seeds thead td { color: var(--quiet); font-size: 11px; }
.seeds thead div { max-width: 74px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.seeds td { padding: 0; text-align: center; position: relative; }
.seeds img { width: 74px; height: 74px; display: block; border: 3px solid transparent; border-radius: 5px; }
.seeds img.pixels { image-rendering: pixelated; }
.seeds .differs img { border-color: var(--differs); }
.seeds .differs::after { content: "≠"; position: absolute; top: 0; right: 0; width: 17px; height: 17px;
  line-height: 16px;
  font-size: 12px; font-weight: 700; border-radius: 4px; background: var(--differs); color: var(--page); }
.badge { display: inline-block; font-size: 11.5px; line-height: 1.25; color: var(--quiet); }
.badge.equal { color: var(--accent); } .badge.other { color: var(--differs); }
.notes { padding-left: 18px; color: var(--quiet); font-size: 13.5px; max-width: 90ch; overflow-wrap: anywhere; }
@media (max-width: 560px) { main { padding: 22px 14px 48px; } h1 { font-size: 22px; } dt { flex-basis: 88px; }
  .seeds th { min-width: 92px; max-width: 104px; } .seeds img { width: 56px; height: 56px; }
  .seeds thead div { max-width: 56px; } .small { gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
}
""" + "".join(
    f"svg .full.c{i}, svg .bar.c{i} {{ fill: var(--c{i}); }} svg .hollow.c{i} {{ stroke: var(--c{i}); }}\n"
    for i in range(7)
)
