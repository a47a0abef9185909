"""From a published row to its images and scores: the commands, for a dry run and for docs/zoo.md.

python -m pointillist.zoo.commands        # writes the part of docs/zoo.md between its markers anew
"""

from __future__ import annotations

from typing import Any

from pointillist.configs.files import write_whole
from pointillist.configs.options import ROOT
from pointillist.configs.recipes import Recipe, read_recipe, recipes
from pointillist.evaluation.published import Published, read_published

PAGE = ROOT / "docs" / "zoo.md"
BEGIN, END = "<!-- made by python -m pointillist.zoo.commands -->", "<!-- until here -->"
REFERENCES = {256: "VIRTUAL_imagenet256_labeled.npz", 512: "VIRTUAL_imagenet512.npz"}
FAMILIES = ("LlamaGen", "NPP", "PAR", "RandAR", "VAR")


def commands_of(o: Any) -> list[str]:
    """How to get the weights, sample and score what a request asks for."""
    if not o.zoo:
        return ["sample     the same words without dry_run=true", "score      python evaluate.py OUT reference=REF.npz"]
    row, files = read_published().get(o.published), recipes()
    recipe = read_recipe(files[o.published]) if o.published in files else Recipe("", {"zoo": o.zoo}, {}, "")
    get, draw, score = three(recipe, row)
    return [f"weights    {get}", f"sample     {draw}", f"score      {score}"]


def three(recipe: Recipe, row: Published | None) -> tuple[str, str, str]:
    """Commands that fetch the weights, sample and score; a recipe without a row is sampled as zoo=NAME."""
    from pointillist.zoo.zoo import member

    name = recipe.options["zoo"]
    known = member(name)
    files = [known, *([member(known.tokenizer)] if known.tokenizer else [])]
    folder = f"weights/{name.partition('-')[0]}"
    addresses = dict.fromkeys(m.address for m in files)
    get = [
        " ".join(["hf download", address, *dict.fromkeys(m.file for m in files if m.address == address)])
        + f" --local-dir {folder}"
        for address in addresses
    ]
    what = f"configs/imagenet/{recipe.name}.yaml" if recipe.name else f"zoo={name}"
    reference = REFERENCES[row.image_size if row else 256]
    score = f"python evaluate.py runs/zoo/{name}/samples reference={reference}"
    return " && ".join(get), f"python sample.py {what} weights={folder}", score


# ------------------------------------------------------------------------------------------------------------ the page


def table() -> list[str]:
    """Every row of configs/imagenet: its scores, how it was drawn, and its commands or why there are none."""
    files, rows = recipes(), read_published()
    lines = []
    for family in FAMILIES:
        names = [name for name in files if rows[name].family == family]
        read = {name: read_recipe(files[name]) for name in names}
        run = sorted((n for n in names if not read[n].not_runnable), key=lambda n: -rows[n].scores["fid"])
        lines += [f"### {family}", "", "| row | FID | IS | precision | recall | options here |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [_row(rows[name], read[name]) for name in run]
        lines += ["", "```bash"]
        lines += [line for name in run for line in (f"# {name}", *three(read[name], rows[name]))]
        lines += ["```", ""]
        others = [f"- `{n}`, {scores(rows[n])}: {read[n].not_runnable}" for n in names if read[n].not_runnable]
        lines += ["Not runnable:", "", *others, ""] if others else []
    return lines[:-1]


def _row(row: Published, recipe: Recipe) -> str:
    marks = {s: f"{v:g}" + ("*" if row.certainty[s] != "readme" else "") for s, v in row.scores.items()}
    said = [f"{k}={recipe.options[k]}" for k in ("guidance", "top_k", "top_p", "classes", "precision")]
    said = [word for word in said if word not in ("top_k=0", "top_p=1")]
    cells = [f"[{row.title}](../configs/imagenet/{recipe.name}.yaml)"]
    cells += [marks.get(score, "-") for score in ("fid", "is", "precision", "recall")]
    return "| " + " | ".join([*cells, f"`{' '.join(said)}`"]) + " |"


def scores(row: Published) -> str:
    """ "FID 2.18, IS 263*"."""
    titles = {"fid": "FID", "is": "IS"}
    found = ((titles[s], v, row.certainty[s]) for s, v in row.scores.items() if s in titles)
    return ", ".join(f"{title} {value:g}{'' if sure == 'readme' else '*'}" for title, value, sure in found)


def page(text: str) -> str:
    """docs/zoo.md with the part between the markers made anew."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    assert rest and after, f"{PAGE} has lost its markers"
    return "\n".join([before + BEGIN, "", *table(), "", END]) + after


if __name__ == "__main__":
    write_whole(PAGE, page(PAGE.read_text(encoding="utf-8")))
