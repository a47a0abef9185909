"""sample.py and evaluate.py with published checkpoints: recipes, random weights, dry runs, drafts, sweeps, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pointillist import evaluate, sample
from pointillist.configs.options import load
from pointillist.data.pixels import Pixels, finish
from pointillist.evaluation.card import of_samples, origin
from pointillist.evaluation.samples import open_samples
from pointillist.tokenizers import conv
from pointillist.training.jobs import prepare
from pointillist.training.load import load_generator, load_tokenizer
from pointillist.training.models import open_models
from tests.tiny_zoo import set_up

GIVEN = ["zoo=tiny", "weights=weights", "num_images=3", "device=cpu"]


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    open_models.cache_clear()
    yield set_up(tmp_path, monkeypatch)
    open_models.cache_clear()


def run(*words: str) -> None:
    sample.main([*map(str, words)])


def told(out: str) -> dict:
    return json.loads((Path(out) / "sample.json").read_text())


def arrays(out: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(out) / "images.npz") as images, np.load(Path(out) / "codes.npz") as codes:
        return images["arr_0"], codes["codes"]


# -------------------------------------------------------------------------------------------------------------- recipes


def test_a_recipe_samples_into_the_zoo_s_folder_with_the_row_s_pixels(weights, capsys):
    run("rows/tiny.yaml", "weights=weights")
    out = "runs/zoo/tiny/samples"
    said, (images, codes) = told(out), arrays(out)
    assert said["published"] == "tiny" and said["original"]["file"] == "tiny.pt" and "warning" not in said
    assert said["options"]["pixels"] == {**vars(Pixels()), "size": 12, "resize": "bicubic", "quantize": "truncate"}
    assert said["classes"] == ["tench", "goldfish", "shark"] and images.shape == (6, 12, 12, 3)
    assert json.loads(Path(out, "request.json").read_text())["pixels"]["quantize"] == "truncate"
    tokenizer, _ = load_tokenizer("runs/zoo/tiny-vq")
    with torch.inference_mode():
        decoded = tokenizer.decode(torch.from_numpy(codes).long())
    for quantize, same in (("truncate", True), ("round", False)):
        wanted = finish(decoded, Pixels(12, "bicubic", quantize)).permute(0, 2, 3, 1).numpy()
        off = np.abs(wanted.astype(int) - images).max()  # a batch of another size may round a float otherwise
        assert bool(np.mean(wanted != images) < 1e-3 and off <= 1) == same
    assert "will not stand beside" not in capsys.readouterr().out
    run("rows/tiny.yaml", "weights=weights")
    assert "is finished" in capsys.readouterr().out


def test_the_row_is_not_repeated_with_other_options(weights, capsys):
    run("rows/tiny.yaml", "weights=weights", "guidance=3", "num_images=2", "out=a")
    assert told("a")["published"] is None and "other than tiny's recipe: guidance;" in capsys.readouterr().out
    run("rows/tiny.yaml", "weights=weights", "seed=5", "num_images=2", "out=b")
    assert told("b")["published"] == "tiny", "the control: seeds and numbers of images are not the recipe"


@pytest.mark.parametrize(("words", "repeated"), [
    (["guidance=2.0"], True), (["sampler=jacobi"], True), (["sampler=ancestral", "sampler.merge=2"], False),
    (["sampler=gsd"], False),
])  # fmt: skip
def test_a_row_is_repeated_by_what_draws_its_law(weights, words, repeated):
    """2 and 2.0 are one number; of samplers, those that are exact."""
    run("rows/tiny.yaml", "weights=weights", "num_images=1", "out=a", *words)
    assert told("a")["published"] == ("tiny" if repeated else None)


def test_somebody_elses_weights_and_recipes_repeat_no_row(weights):
    Path("mine").mkdir()
    Path("mine/tuned.pt").write_bytes((weights / "tiny.pt").read_bytes())
    Path("mine/vq.pt").write_bytes((weights / "vq.pt").read_bytes())
    run("rows/tiny.yaml", "weights=mine/tuned.pt", "num_images=1", "out=a")
    Path("my.yaml").write_text("base: rows/tiny.yaml\nguidance: 3\n")
    run("my.yaml", "weights=weights", "num_images=1", "out=b")
    assert told("a")["published"] is None and told("b")["published"] is None
    assert told("a")["original"]["file"] == "tuned.pt"


def test_zoo_without_a_recipe_is_an_ordinary_generator(weights):
    run(*GIVEN, "out=a", "classes=shark", "guidance=1.5")
    images, codes = arrays("a")
    assert images.shape == (3, 16, 16, 3) and told("a")["checkpoint"]["path"] == "runs/zoo/tiny/step_00000000"
    run("runs/zoo/tiny", "num_images=3", "device=cpu", "classes=shark", "guidance=1.5", "out=b")
    assert np.array_equal(arrays("b")[1], codes), "the conversion is a run like others"
    run("zoo=tiny", "num_images=3", "device=cpu", "classes=shark", "guidance=1.5", "out=a")  # weights are known now


# ------------------------------------------------------------------------------------------------------- random weights


def test_random_weights_are_said_loudly_and_lie_apart(weights, capsys):
    run("rows/tiny.yaml", "weights=random")
    said = told("runs/zoo/tiny-random/samples")
    assert "random weights" in said["warning"] and said["published"] is None and said["original"] is None
    assert said["checkpoint"]["sha256"] == "random-tiny" and "WARNING: random weights" in capsys.readouterr().out
    assert not Path("runs/zoo/tiny").exists()
    with pytest.raises(ValueError, match="holds other samples: checkpoint was random-tiny"):
        run("rows/tiny.yaml", "weights=weights", "out=runs/zoo/tiny-random/samples")


def test_options_of_the_unit_hold_for_random_weights_too(weights):
    words = ["zoo=tiny-any", "num_images=2", "device=cpu", "unit.passes=5"]
    for name in ("random", "weights"):
        run(*words, f"weights={name}", f"out={name}")
        assert told(name)["trace"]["nfe_per_image"] == 5
    with pytest.raises(ValueError, match="unit.order cannot change"):
        run("zoo=tiny", "weights=random", "unit.order=snake")


# -------------------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize("words", [["rows/tiny.yaml"], ["rows/tiny.yaml", "weights=weights"], ["runs/zoo/tiny"]])
def test_a_dry_run_measures_and_writes_nothing(weights, capsys, words, monkeypatch):
    run(*GIVEN, "out=a")
    before = set(Path().rglob("*"))
    monkeypatch.setattr("pointillist.zoo.commands.recipes", lambda: {"tiny": Path("rows/tiny.yaml")})
    capsys.readouterr()
    run(*words, "dry_run=true", "guidance=2", "num_images=1000", "device=cpu")
    text = capsys.readouterr().out
    assert set(Path().rglob("*")) == before
    assert "codes      16 on grids 4x4, 48 values" in text and "groups     16: 16 of 1" in text
    assert "expected   16 passes an image, each of two rows" in text and "16 passes an image)" in text
    assert "estimate   1,000 images at" in text
    generator = load_generator("runs/zoo/tiny")[0]
    assert f"generator  {sum(p.numel() for p in generator.parameters()):,} parameters" in text
    cache = sum(c.k.nbytes + c.v.nbytes for c in generator.new_caches(2))
    batch = 4 if words[0].endswith("yaml") else 64
    assert f"cache      {cache / 1000:.3g} KB an image" in text and f"at batch_size={batch}" in text
    assert ("random ones" in text) is (words == ["rows/tiny.yaml"])
    if words[0].endswith("yaml"):
        assert "published  Tiny: fid 3 (paper-mem)" in text and "hf download nobody/tiny tiny.pt vq.pt" in text
        assert "python sample.py configs/imagenet/tiny.yaml weights=weights/tiny" in text


def test_a_dry_run_stops_when_it_has_seen_enough(weights, capsys, monkeypatch):
    monkeypatch.setattr("pointillist.training.dry_run.PATIENCE", 0.0)
    run("zoo=tiny", "dry_run=true", "device=cpu")
    assert "(1 of 16 passes, the others reckoned)" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- drafts and sweeps


def test_a_draft_may_be_of_the_zoo(weights):
    words = [*GIVEN, "sampler=jacobi", "sampler.drafter=model", "precision=fp64"]
    run(*words, "draft=tiny-other", "out=a")
    run(*GIVEN, "precision=fp64", "out=b")
    assert np.array_equal(arrays("a")[1], arrays("b")[1]), "jacobi's images are ancestral's"
    assert told("a")["draft"]["path"] == "runs/zoo/tiny-other/step_00000000"
    run(*words, "draft=tiny-other", "weights=random", "out=c")
    assert told("c")["draft"]["sha256"] == "random-tiny-other"
    with pytest.raises(ValueError, match=r"grids \(\(8, 8\),\), tiny of \(\(4, 4\),\)"):
        run(*words, "draft=tiny-32", "out=d")
    with pytest.raises(FileNotFoundError, match="no run at tiny-unknown"):
        run(*words, "draft=tiny-unknown", "out=d")
    assert not Path("d").exists()


def test_sweeps_over_options_and_over_checkpoints(weights, capsys):
    run(*GIVEN, "num_images=2", "guidance=1,2")
    assert "not scored: its training data are unknown here" in capsys.readouterr().out
    points = Path("runs/zoo/tiny/sweep/points")
    assert sorted(p.name for p in points.iterdir()) == ["guidance1", "guidance2"]
    words = ["zoo=tiny,tiny-other", "weights=weights", "num_images=2", "device=cpu", "score=false"]
    with pytest.raises(ValueError, match="belongs to none of them; name a folder"):
        run(*words)
    run(*words, "out=both")
    assert sorted(told(p)["original"]["name"] for p in Path("both/points").iterdir()) == ["tiny", "tiny-other"]
    with pytest.raises(ValueError, match="this is a grid of 2"):
        run(*words, "out=both", "dry_run=true")


# ------------------------------------------------------------------------------------------------------------ precision


def test_fp16_autocast_is_around_codes_and_decoder(weights, monkeypatch):
    seen = []

    def watched(self, codes, noise=None):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return decode(self, codes)

    decode = conv.Tokenizer.decode
    monkeypatch.setattr(conv.Tokenizer, "decode", watched)
    for precision in ("fp32", "fp16_autocast", "bf16"):
        run(*GIVEN, f"precision={precision}", f"out={precision}")
        generator = prepare(load(sample.Options, None, [*GIVEN, f"precision={precision}"])).models.generator
        expected = torch.bfloat16 if precision == "bf16" else torch.float32
        assert next(generator.parameters()).dtype == expected
    assert seen == [None, torch.float16, None]
    full, half = arrays("fp32")[0].astype(int), arrays("fp16_autocast")[0].astype(int)
    assert 0 < np.abs(full - half).mean() < 60
    assert origin(Path("fp16_autocast"))["decoded"] == "float16 autocast"
    assert origin(Path("fp32"))["decoded"] == "float32, TF32 off"


# ------------------------------------------------------------------------------------------------------------- captions


def test_labels_are_captions(weights):
    features = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    words = ["zoo=tiny-text", "weights=weights", "num_images=4", "device=cpu", "guidance=2"]
    np.savez("c.npz", features=features, mask=np.ones((2, 5), int), texts=np.array(["a cat", "a dog"]))
    run(*words, "captions=c.npz", "out=a", "classes=a dog")
    said = told("a")
    assert said["classes"] == ["a cat", "a dog"]
    with np.load("a/images.npz") as images:
        assert images["arr_1"].tolist() == [1, 1, 1, 1]
    np.savez("c.npz", features=features + 1, mask=np.ones((2, 5), int), texts=np.array(["a cat", "a dog"]))
    with pytest.raises(ValueError, match="holds other samples: captions_sha256"):
        run(*words, "captions=c.npz", "out=a", "classes=a dog")
    for given, message in (([], "give captions=FILE, or prompt="), (["prompt=a cat"], "need text_encoder="),
                           (["captions=no.npz"], "is no file")):  # fmt: skip
        with pytest.raises((ValueError, OSError), match=message):
            run(*words, *given, "out=b")
    with pytest.raises(ValueError, match="draws classes, not captions"):
        run(*GIVEN, "captions=c.npz", "out=b")
    assert not Path("b").exists()


# ----------------------------------------------------------------------------------------------------------- evaluation


def test_a_recipe_is_scored_like_its_written_images(weights, inception):
    np.savez("ref.npz", np.random.default_rng(0).integers(0, 256, (12, 12, 12, 3), np.uint8))
    words = ["reference=ref.npz", f"inception_weights={inception}", "unverified=true", "scores=fid", "cache=cache"]
    evaluate.main(["rows/tiny.yaml", "weights=weights", *words])
    direct = json.loads(Path("runs/zoo/tiny/scores.json").read_text())
    run("rows/tiny.yaml", "weights=weights")
    evaluate.main(["runs/zoo/tiny/samples", *words, "batch_size=4"])
    written = json.loads(Path("runs/zoo/tiny/samples/scores.json").read_text())
    assert written["protocol"] == direct["protocol"] and written["scores"] == direct["scores"]
    assert direct["protocol"]["pixels"] == {"resize": "bicubic", "size": 12, "quantize": "truncate"}
    assert direct["samples"]["published"] == written["samples"]["published"] == "tiny"
    assert direct["samples"]["run"]["weights"] == written["samples"]["run"]["weights"] == "as published, tiny"


def test_what_is_resized_twice_says_so(weights):
    run("rows/tiny.yaml", "weights=weights", "out=a")
    card = of_samples(open_samples("a", Pixels(8, "pil_bicubic")), origin(Path("a")))
    assert card["pixels"] == {"resize": "bicubic, then pil_bicubic", "size": 8, "quantize": "truncate"}


# --------------------------------------------------------------------------------------------------------------- errors


ERRORS = [
    (["rows/tiny-lost.yaml", "weights=weights"], "tiny-lost cannot be run: its weights are not released"),
    (["rows/none.yaml"], "no configuration file rows/none.yaml"),
    (["run=x", "zoo=tiny"], "run=x and zoo=tiny are two generators"),
    (["weights=weights"], "which run"),
    (["run=x", "weights=weights"], "weights=weights are of which checkpoint"),
    (["zoo=tiby", "weights=weights"], "Did you mean 'tiny'"),
    (["zoo=tiby", "weights=random"], "Did you mean 'tiny'"),
    (["zoo=tiny-vq", "weights=weights"], "a generator is needed here"),
    (["zoo=tiny-vq", "weights=random"], "a generator is needed here"),
    (["zoo=tiny", "weights=nowhere"], "no such file or folder"),
    (["zoo=tiny", "weights=random", "sampler=speculative", "sampler.drafter=model", "sampler.rule=exact",
      "draft=tiny-vq"], "tiny-vq is a tokenizer, a generator is needed here"),
    ([*GIVEN, "classes=proportional"], "choose balanced, random or names"),
    ([*GIVEN, "pixels.size=8"], "pixels.resize="),
    ([*GIVEN, "pixels.value_range=[0,1]"], "a decoder's are in"),
    ([*GIVEN, "guidanc=2"], "guidanc"),
]  # fmt: skip


@pytest.mark.parametrize("words, message", ERRORS, ids=[error[1][:30] for error in ERRORS])
def test_what_cannot_be_had_is_said_in_a_line(weights, words, message):
    with pytest.raises((ValueError, OSError), match=message.replace("(", r"\(")) as caught:
        run(*words, "out=never")
    assert "\n" not in str(caught.value) and not Path("never").exists()


def test_evaluate_takes_one_recipe_and_nothing_beside_it(weights):
    with pytest.raises(ValueError, match="one recipe at a time"):
        evaluate.main(["rows/tiny.yaml", "rows", "reference=x"])
    with pytest.raises(ValueError, match="two ways to say the same"):
        evaluate.main(["rows", "zoo=tiny", "reference=x"])
