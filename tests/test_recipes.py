"""configs/imagenet: every published row is a recipe that can be run, or says why not; numbers are the sources'."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pointillist.configs.options import find, load, to_dict
from pointillist.configs.recipes import read_recipe, recipes
from pointillist.evaluation.published import read_published
from pointillist.models.generator import steps_done
from pointillist.models.orders import pass_sizes
from pointillist.sampling.schedules import Schedule
from pointillist.training.request import Request, differing
from pointillist.zoo import commands
from pointillist.zoo.zoo import member

ROWS = read_published()
READ = {name: read_recipe(path) for name, path in recipes().items()}
RUNNABLE = [name for name, recipe in READ.items() if not recipe.not_runnable]

# name: guidance of the source, FID, IS, precision, recall (None = not stated)
LLAMAGEN = {
    "llamagen-b-256": (2.0, 5.46, 193.61, 0.83, 0.45),
    "llamagen-b-384": (2.0, 6.09, 182.54, 0.85, 0.42),
    "llamagen-l-256": (2.0, 3.80, 248.28, 0.83, 0.52),
    "llamagen-l-384": (2.0, 3.07, 256.06, 0.83, 0.52),
    "llamagen-xl-384": (1.75, 2.62, 244.08, 0.80, 0.57),
    "llamagen-xxl-384": (1.75, 2.34, 253.90, 0.80, 0.59),
    "llamagen-3b-384": (1.65, 2.18, 263.33, 0.81, 0.58),
    "npp-b-256": (2.0, 4.47, None, None, None),
    "npp-l-256": (1.75, 2.76, None, None, None),
    "npp-xl-256": (1.70, 2.65, None, None, None),
    "npp-xxl-256": (1.65, 2.55, None, None, None),
    "par-xl-4x": (1.5, 2.61, 259.2, 0.82, 0.56),
    "par-xxl-4x": (1.435, 2.35, 263.2, 0.82, 0.57),
    "par-3b-4x": (1.345, 2.29, 255.5, 0.82, 0.58),
    "par-3b-16x": (1.5, 2.88, 262.5, 0.82, 0.56),
}
GROWING = {"randar-l": (3.4, 2.65, 249, 0.82, 0.56), "randar-xl": (4.0, 2.27, 275, 0.81, 0.59)}
VAR = {"var-d16": 3.55, "var-d20": 2.95, "var-d24": 2.33, "var-d30": 1.97, "var-d36-512": 2.63}
PASSES = {"llamagen-b-256": 256, "llamagen-l-384": 576, "npp-l-256": 256, "par-xl-4x": 147, "par-3b-16x": 51,
          "randar-l": 88, "var-d16": 10}  # fmt: skip


def request(name: str) -> Request:
    return load(Request, None, READ[name].words())


def test_the_rows_that_can_be_run_are_those_with_weights_and_a_public_recipe():
    assert set(RUNNABLE) == {*LLAMAGEN, *GROWING, *VAR}
    assert len(READ) == 41 and {ROWS[name].family for name in READ} == set(commands.FAMILIES)


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_recipe_is_valid_and_of_a_member(name):
    o, known = request(name), member(READ[name].options["zoo"])
    assert o.zoo == name == known.name and known.kind == "generator" and o.published == name
    assert o.num_images == 50_000 and o.seed == 0 and differing(o) == []
    o.pixels.check()
    written = o.pixels.size or known.image_size
    assert written == ROWS[name].image_size == (512 if "512" in name else 256)
    assert {"random": "random", "balanced": "balanced"}[o.classes] == ROWS[name].recipe.labels


@pytest.mark.parametrize("name", [name for name in READ if name not in RUNNABLE])
def test_a_row_that_cannot_be_run_says_why_in_a_line(name):
    with pytest.raises(ValueError, match=f"^{name} cannot be run: .*(released|public|zoo)") as caught:
        READ[name].words()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", {**LLAMAGEN, **GROWING})
def test_scores_and_guidance_are_the_sources(name):
    guidance, *scores = {**LLAMAGEN, **GROWING}[name]
    named = dict(zip(("fid", "is", "precision", "recall"), scores, strict=True))
    assert ROWS[name].scores == {k: v for k, v in named.items() if v is not None}
    assert ROWS[name].recipe.guidance == guidance
    found = Schedule.parse("guidance", request(name).guidance, 0)
    first = 1 if name in GROWING else guidance
    assert (found.first, found.last, found.curve) == (first, guidance, "linear")


@pytest.mark.parametrize("name", VAR)
def test_var_is_guided_by_scale(name):
    """(1 + t) c - t u with t = 1.5 k / 9 at scale k is u + (1 + t) (c - u)."""
    assert ROWS[name].scores == {"fid": VAR[name]} and ROWS[name].recipe.guidance == 1.5
    o, steps = request(name), steps_done(torch.zeros(1, dtype=torch.long), 10, 10)
    scale = Schedule.parse("guidance", o.guidance, 0).at(torch.zeros(1, 10), steps)[0]
    told = [1, 1.1667, 1.3333, 1.5, 1.6667, 1.8333, 2.0, 2.1667, 2.3333, 2.5]
    assert scale.tolist() == pytest.approx(told, abs=1e-4)
    wrong = Schedule.parse("guidance", "1.5", 0).at(torch.zeros(1, 10), steps)[0]
    assert wrong.tolist() != pytest.approx(told, abs=0.1), "the control: its number taken for ours"
    assert (o.top_k, o.top_p, o.classes, o.precision) == ("900", "0.96", "balanced", "fp16_autocast")


def test_randar_s_guidance_grows_with_the_codes_before_the_pass():
    sizes = pass_sizes(256, request("randar-xl").unit["passes"])
    assert Counter(sizes) == {1: 24, 2: 9, 3: 16, 4: 29, 5: 10} and sizes.index(2) == 24
    before = torch.tensor([0, *sizes[:-1]]).cumsum(0)[None]
    for name, (last, *_) in GROWING.items():
        found = Schedule.parse("guidance", request(name).guidance, 0).at(before / 256, before)
        assert found[0].tolist() == pytest.approx([1 + (last - 1) * k / 256 for k in before[0].tolist()], abs=1e-9)


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_those_of_the_plan(name):
    assert ROWS[name].recipe.passes == PASSES[name]
    known = member(name)
    unit = find("models/units", known.options["unit"]["name"])
    asked = load(unit.Options, None, [f"{k}={v}" for k, v in {**known.options["unit"], **request(name).unit}.items()])
    groups = unit.plan(known.spec, asked).groups
    sizes = pass_sizes(known.spec.length, asked.passes) if hasattr(asked, "passes") else [len(g) for g in groups]
    assert len(sizes) == PASSES[name] and sum(sizes) == known.spec.length


@pytest.mark.parametrize("name", RUNNABLE)
def test_pixels_and_precision_are_the_family_s(name):
    o = request(name)
    is_384 = member(name).image_size == 384
    assert (o.pixels.size, o.pixels.resize) == ((256, "bicubic") if is_384 else (0, "none"))
    assert o.pixels.quantize == ("truncate" if name in VAR else "round")
    assert o.precision == ("fp16_autocast" if name in VAR else "bf16")
    if name not in VAR:
        assert (o.classes, o.temperature, o.top_k, o.top_p) == ("random", "1", "0", "1")


def test_changed_options_are_named_and_free_ones_are_not():
    words = READ["llamagen-l-384"].words()
    assert differing(load(Request, None, [*words, "num_images=8", "batch_size=2", "seed=3", "device=cpu"])) == []
    changed = load(Request, None, [*words, "guidance=4", "pixels.quantize=truncate", "precision=fp32"])
    assert differing(changed) == ["guidance", "pixels", "precision"]
    assert to_dict(changed)["published"] == "llamagen-l-384"


def test_the_page_is_up_to_date():
    text = commands.PAGE.read_text(encoding="utf-8")
    assert commands.page(text) == text, "python -m pointillist.zoo.commands"
    assert "hf download FoundationVision/LlamaGen c2i_L_384.pt vq_ds16_c2i.pt --local-dir weights/llamagen" in text


def test_commands_fetch_generator_and_tokenizer():
    get, draw, score = commands.three(READ["par-xl-4x"], ROWS["par-xl-4x"])
    assert get.count("hf download") == 2 and "Epiphqny/PAR PAR-XL-4x.pt" in get and "vq_ds16_c2i.pt" in get
    assert draw == "python sample.py configs/imagenet/par-xl-4x.yaml weights=weights/par"
    assert score.endswith("reference=VIRTUAL_imagenet256_labeled.npz")


def test_files_that_are_each_others_base_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ValueError, match=r"b.yaml has a.yaml as its base, whose base it is"):
        read_recipe(tmp_path / "a.yaml")
