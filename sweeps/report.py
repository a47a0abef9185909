"""report.html of a sweep: one page that needs nothing but itself."""

from __future__ import annotations

import re
from html import escape

from pointillist.sweeps.charts import Mark, bars, scatter, symbol
from pointillist.sweeps.maps import maps, multiples
from pointillist.sweeps.results import MEANINGS, Result, cells
from pointillist.sweeps.strips import strips
from pointillist.sweeps.style import CSS

NOTHING = 1e-6  # total variation an image below which a rule spends none: rounding


def page(results: list[Result], axes: tuple[str, ...], notes: list[str], waiting: int = 0) -> str:
    """The whole page; `waiting` points are still to come. All text is escaped."""
    run = results[0].sample["options"]["run"] if results else ""
    count = f"{len(results)} points over {', '.join(axes)}" + (f"; {waiting} still to come" if waiting else "")
    body = [f"<h1>Sweep of {escape(run)}</h1>", f'<p class="lead">{escape(count)}</p>']
    if results:
        body += [protocol(results), table(results, axes), quality(results), spent(results), committed(results)]
        body += [seeds(results), rejections(results)]
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    body.append(_section("Notes", f'<ul class="notes">{lines}</ul>' if lines else ""))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>Sweep of {escape(run)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: str, lead: str = "") -> str:
    """Empty where there is no content."""
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<h2>{escape(title)}</h2>{said}{content}" if content else ""


# ------------------------------------------------------------------------------------------------- protocol and numbers


def protocol(results: list[Result]) -> str:
    """What was the same for all points, or the different values side by side."""
    lines: dict[str, list[str]] = {}
    for result in results:
        s, o = result.sample, result.sample["options"]
        draft = s["draft"]
        facts = {
            "run": o["run"],
            "checkpoint": f"step {s['checkpoint']['step']}, {s['checkpoint']['sha256'][:12]}",
            "tokenizer": f"{s['tokenizer']['path']}, {s['tokenizer']['sha256'][:12]}",
            "draft": f"{draft['path']}, {draft['sha256'][:12]}" if draft else "",
            "codes": f"{' + '.join('x'.join(map(str, grid)) for grid in s['spec']['grids'])}, of {_vocab(s['spec'])}",
            "images": f"{o['num_images']}, classes {o['classes']}, seed {o['seed']}",
            "batch size": str(o["batch_size"]),
            "device": f"{s['device']}, {o['precision']}",
            "versions": ", ".join(f"{name} {version}" for name, version in s["versions"].items()),
            "git": s["git"],
            "score": next(iter(result.scores), ""),
        }
        for key, value in facts.items():
            if value and value not in lines.setdefault(key, []):
                lines[key].append(value)
    pairs = "".join(f"<div><dt>{k}</dt><dd>{escape(' | '.join(v))}</dd></div>" for k, v in lines.items() if v)
    return f"<dl>{pairs}</dl>"


def _vocab(spec: dict) -> str:
    return " and ".join(map(str, spec["vocab"])) if spec["vocab"] else f"{spec['channels']} real numbers"


def table(results: list[Result], axes: tuple[str, ...]) -> str:
    heads, rows = cells(results, axes)
    words = {"law", "sampler"}
    titles = [MEANINGS.get(name, name) for name in heads]
    head = "".join(
        f'<th{_word(name in words)} title="{escape(title)}">{_breakable(name)}</th>'
        for name, title in zip(heads, titles, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{_word(h in words)}>{_law(h, c)}</td>' for h, c in zip(heads, row, strict=True))}</tr>\n"
        for row in rows
    )
    meanings = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(MEANINGS[name])}</dd></div>" for name in heads if name in MEANINGS
    )
    whole = f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    return _section("Numbers", f'<div class="scroll">{whole}</div><dl class="meanings">{meanings}</dl>')


def _breakable(name: str) -> str:
    """A head may go on in the next line after these letters."""
    return re.sub(r"([/._])", r"\1<wbr>", escape(name))


def _word(is_word: bool) -> str:
    return ' class="word"' if is_word else ""


def _law(head: str, cell: str) -> str:
    return f'<span class="law {escape(cell)}">{escape(cell)}</span>' if head == "law" else escape(cell)


# --------------------------------------------------------------------------------------------------------------- charts


def series_of(results: list[Result]) -> dict[str, int]:
    """Sampler with its options -> the number of its colour and shape."""
    return {name: i for i, name in enumerate(dict.fromkeys(r.sampler for r in results))}


def quality(results: list[Result]) -> str:
    """The first score against passes and against time."""
    score = next((name for r in results for name in r.scores), None)
    if score is None:
        return _section("Quality against cost", '<p class="lead">These points have no score; Notes says why.</p>')
    scored = [r for r in results if score in r.scores]
    level = scored[0].scores[score]["heldout"], "held-out images"
    charts = []
    for cost, title in ((passes, "NFE an image"), (milliseconds, "milliseconds an image")):
        marks = _marks(results, scored, cost, lambda r: r.scores[score]["value"])
        charts.append(scatter(marks, title, score, level))
    lead = f"{score}, lower is better; the dashed line is what held-out images get. {_labelled(results)}"
    return _section("Quality against cost", _figures(charts) + legend(results), lead=lead)


def spent(results: list[Result]) -> str:
    """Total variation against passes, where a rule spends any."""
    tested = [r for r in results if variation(r) is not None]
    if max(map(variation, tested), default=0) <= NOTHING:
        return ""
    chart = scatter(_marks(results, tested, passes, variation), "NFE an image", "total variation an image")
    lead = "Relaxed rules buy passes with total variation: the certified budget an image, 0 for the unit's own law."
    return _section("What relaxed rules spend", _figures([chart]) + legend(tested, series_of(results)), lead=lead)


def passes(result: Result) -> float:
    return result.sample["trace"]["nfe_per_image"]


def milliseconds(result: Result) -> float:
    return result.sample["trace"]["seconds_per_image"] * 1e3


def variation(result: Result) -> float | None:
    return result.sample["trace"]["variation_per_image"]


def _marks(results: list[Result], shown: list[Result], x, y) -> list[Mark]:
    series = series_of(results)
    return [Mark(x(r), y(r), _label(r), series[r.sampler], r.sample["law"] != "exact") for r in shown]


def _label(result: Result) -> str:
    return ", ".join(result.numbers.values()) or result.sampler


def _labelled(results: list[Result]) -> str:
    keys = list(dict.fromkeys(key for r in results for key in r.numbers))
    return f"Labels are {', '.join(keys)}. Hover a point for its values." if keys else "Hover a point for its values."


def _figures(charts: list[str]) -> str:
    return f'<div class="charts">{"".join(f"<figure>{chart}</figure>" for chart in charts)}</div>'


def legend(results: list[Result], series: dict[str, int] | None = None) -> str:
    """Colour and shape of each sampler; hollow ones do not draw from the unit's own law."""
    series, laws = series or series_of(results), {r.sampler: r.sample["law"] for r in results}
    items = ""
    for name, law in laws.items():
        mark = symbol(Mark(0, 0, name, series[name], law != "exact"))
        items += f'<li><svg viewBox="-8 -8 16 16" aria-hidden="true">{mark}</svg>{escape(name)} '
        items += f'<span class="quiet">{escape(law)}</span></li>'
    return f'<ul class="legend">{items}</ul>'


def committed(results: list[Result]) -> str:
    """How many groups a pass keeps, of samplers that do not always keep the same number."""
    series, figures = series_of(results), []
    counts = {r: {int(n): count for n, count in r.sample["trace"]["committed"].items()} for r in results}
    counts = {r: found for r, found in counts.items() if len(found) > 1}
    last = max((n for found in counts.values() for n in found), default=0)
    most = max((max(found.values()) / sum(found.values()) for found in counts.values()), default=0)
    for r, found in counts.items():
        mean = sum(n * count for n, count in found.items()) / sum(found.values())
        chart = bars(found, f"groups kept a pass, {r.folder.name}", series[r.sampler], last, most)
        figures.append((r.sampler, f"<figure>{r.caption(f'mean {mean:.2f}')}{chart}</figure>"))
    lead = "Share of the passes by the number of groups they kept. Ancestral keeps one a pass and has no picture."
    return _section("Groups kept a pass", multiples(figures), lead=lead)


def seeds(results: list[Result]) -> str:
    lead = (
        "Every column is one image number: the same seed and class. A frame and ≠ mark an image whose codes differ "
        "from those of ancestral with the same numbers; an exact sampler may draw other images of the same law."
    )
    return _section("The same seeds", strips(results), lead=lead)


def rejections(results: list[Result]) -> str:
    lead = "A map is the grid of codes of an image; each kind of map has one scale for all points."
    return _section("Where drafts are rejected", maps(results, NOTHING), lead=lead)
