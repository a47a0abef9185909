"""evaluate.py tokenizer as a user runs it, on small random tokenizers and the embedded data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pointillist.configs.options import find, to_dict
from pointillist.data.emoji import Options as Emoji
from pointillist.data.emoji import open_images
from pointillist.data.images import to_float, to_uint8
from pointillist.evaluate import main
from pointillist.evaluation.networks.inception import open_network
from pointillist.evaluation.networks.lpips import open_lpips
from pointillist.evaluation.reconstruction.perturb import Grid, perturbations
from pointillist.evaluation.reconstruction.ssim import ssim
from pointillist.evaluation.reference import data_images
from pointillist.tokenizers import conv
from pointillist.training import checkpoint
from pointillist.training.load import load_tokenizer
from pointillist.training.tasks.tokenizer import code_statistics, psnr
from tests.commands import fails, succeeds

SIZE = 16
SMALL = {"widths": [16, 16], "blocks": 1}
KINDS = {
    "conv": {**SMALL, "levels": [5, 5, 3]},
    "folded": {**SMALL, "quantizer": "vq", "vocab": 48, "channels": 3, "books": 2},
    "pyramid": {**SMALL, "sides": [1, 2, 4], "vocab": 64, "channels": 4},
    "latent": {**SMALL, "channels": 3},
    "patches": {"patch": 4, "vocab": 4},
}
GREYS = (0, 85, 170, 255)  # of the patches


def heldout() -> torch.Tensor:
    """uint8 [287, 3, 16, 16]."""
    samples = data_images("emoji", {}, "heldout", SIZE)
    return samples.read(np.arange(samples.count))


def train(tokenizer, images: torch.Tensor) -> None:
    if hasattr(tokenizer, "fit"):
        tokenizer.fit(images)
    optimizer = torch.optim.AdamW(tokenizer.train().parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        tokenizer.loss(images)["loss"].backward()
        optimizer.step()
    tokenizer.eval()


def make_run(kind: str, folder: Path) -> Path:
    """A run as train.py leaves it, of a tokenizer that was trained for a moment."""
    torch.manual_seed(0)
    module = find("tokenizers", "conv" if kind == "folded" else kind)
    options = module.Options(**KINDS[kind])
    tokenizer = module.Tokenizer(options, SIZE)
    if kind == "patches":
        tokenizer.codebook.copy_((torch.tensor(GREYS)[:, None] / 127.5 - 1).expand(-1, 48))
    else:
        train(tokenizer, to_float(heldout()[::2]))
    config = {"kind": "tokenizer", "tokenizer": to_dict(options), "image_size": SIZE, "spec": asdict(tokenizer.spec),
              "data": to_dict(Emoji()) | {"fingerprint": open_images(Emoji(), "train").fingerprint}}  # fmt: skip
    checkpoint.save(folder / kind, 1, tokenizer.state_dict(), config, {})
    return folder / kind


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: make_run(kind, folder) for kind in KINDS}


def evaluate(run: Path, out: Path, *words: str) -> dict:
    """In this process; returns what was written."""
    main(["tokenizer", str(run), f"out={out}", f"cache={out.parent / 'cache'}", *map(str, words)])
    assert not out.with_suffix(".parts").exists()
    return json.loads(out.read_text())


def values(result: dict) -> dict[str, float]:
    """All numbers of the scores, those of their parts too."""
    found = {name: entry["value"] for name, entry in result["scores"].items()}
    return found | {f"{n}/{k}": v for n, e in result["scores"].items() for k, v in e.get("parts", {}).items()}


@torch.no_grad()
def through(run: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (of stochastic ones the mean) and what they decode to, in one batch."""
    tokenizer, _ = load_tokenizer(run)
    codes = tokenizer.encode(to_float(images))
    codes = codes.chunk(2, -1)[0] if tokenizer.spec.stochastic else codes
    return codes, to_uint8(tokenizer.decode(codes))


@pytest.mark.parametrize("kind", ["conv", "folded", "pyramid"])
def test_scores_are_those_of_the_tokenizer(kind, runs, tmp_path):
    result = evaluate(runs[kind], tmp_path / "r.json", "scores=psnr,ssim,codes")
    images = heldout()
    codes, decoded = through(runs[kind], images)
    spec = load_tokenizer(runs[kind])[0].spec
    found, expected = result["scores"], code_statistics(codes, spec)
    assert found["psnr"]["value"] == pytest.approx(float(psnr(images, decoded).mean()), abs=1e-3)
    assert found["psnr"]["width"] == pytest.approx(float(psnr(images, decoded).std()) / 287**0.5, rel=1e-3)
    assert found["ssim"]["value"] == pytest.approx(float(ssim(images, decoded).mean()), abs=1e-4)
    assert found["code_usage"]["value"] == pytest.approx(expected["usage"], abs=0.02)
    assert found["code_perplexity"]["value"] == pytest.approx(expected["perplexity"], rel=0.01)
    parts = {"folded": ["book 0", "book 1"], "pyramid": ["scale 1x1", "scale 2x2", "scale 4x4"]}
    assert list(found["code_usage"].get("parts", {})) == parts.get(kind, [])
    assert result["protocol"]["suite"] == "pointillist-tokenizer 1" and result["protocol"]["count"] == 287
    assert result["samples"]["run"]["checkpoint"]["sha256"] and result["samples"]["reference"] == "emoji/heldout"
    picture = Image.open(tmp_path / "r.png")
    assert picture.height > 3 * 64 and picture.width > 12 * 64


def test_continuous_codes_have_scores_of_images_alone(runs, tmp_path):
    result = evaluate(runs["latent"], tmp_path / "r.json", "scores=psnr,ssim")
    images = heldout()
    expected = float(psnr(images, through(runs["latent"], images)[1]).mean())
    assert result["scores"]["psnr"]["value"] == pytest.approx(expected, abs=1e-3)
    assert result["samples"]["run"]["decoded"] == "their mean"
    for scores in ("codes", "pfid", "psnr,perturbed_psnr"):
        with pytest.raises(ValueError, match="continuous codes, .* take scores=rfid,psnr,ssim,lpips_alex,lpips_vgg$"):
            evaluate(runs["latent"], tmp_path / "r.json", f"scores={scores}")


@pytest.mark.parametrize("kind", ["conv", "folded", "pyramid"])
def test_perturbed_scores_do_not_depend_on_the_batch(kind, runs, tmp_path):
    words = ["scores=psnr,codes,perturbed_psnr", "pfid_alphas=[0.9,0.5]", "pfid_deltas=[200,2000]"]
    one, other = (evaluate(runs[kind], tmp_path / f"{b}.json", *words, f"batch_size={b}") for b in (100, 23))
    assert values(one) == pytest.approx(values(other), rel=1e-3)
    assert one["protocol"] == other["protocol"]
    entry = one["scores"]["perturbed_psnr@0.9,0.5x200,2000"]
    cells = entry["parts"]
    assert entry["value"] == pytest.approx(np.mean(list(cells.values()))) and len(cells) == 4
    assert cells["0.9x2000"] < cells["0.9x200"] < one["scores"]["psnr"]["value"]
    assert cells["0.9x200"] < cells["0.5x200"], "more replaced, more lost"


def test_a_stopped_command_continues(runs, tmp_path, monkeypatch):
    words = ["scores=psnr,codes,perturbed_psnr", "pfid_alphas=[0.9]", "pfid_deltas=[200,360]", "batch_size=50"]
    whole = evaluate(runs["conv"], tmp_path / "whole.json", *words)
    decode, calls = conv.Tokenizer.decode, []

    def interrupted(self, codes, noise=None):
        calls.append(len(codes))
        if len(calls) == 9:  # 6 batches of the plain pass, in the third of the first perturbed one
            raise KeyboardInterrupt
        return decode(self, codes, noise)

    monkeypatch.setattr(conv.Tokenizer, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(runs["conv"], tmp_path / "stopped.json", *words)
    assert (tmp_path / "stopped.json.parts").is_dir() and not (tmp_path / "stopped.json").exists()
    before = len(calls)
    again = evaluate(runs["conv"], tmp_path / "stopped.json", *words)
    assert len(calls) - before == 3 * 6 + 1 - (before - 1), "nothing is decoded twice but the picture"
    assert again["scores"] == whole["scores"] and again["protocol"] == whole["protocol"]


def test_images_of_a_folder_are_cropped_like_a_data_set(runs, tmp_path):
    emoji = open_images(Emoji(), "heldout")
    (tmp_path / "png").mkdir()
    for i in range(30):
        emoji.read(i).save(tmp_path / "png" / f"{i:02}.png")
    np.savez(tmp_path / "few.npz", arr_0=heldout()[:30].permute(0, 2, 3, 1).numpy())
    ways = [evaluate(runs["conv"], tmp_path / f"{p}.json", f"images={tmp_path / p}", "scores=psnr") for p in
            ("png", "few.npz")]  # fmt: skip
    assert ways[0]["scores"] == ways[1]["scores"] and ways[0]["protocol"] == ways[1]["protocol"]
    darker = evaluate(runs["conv"], tmp_path / "t.json", f"images={tmp_path / 'few.npz'}", "scores=psnr",
                      "pixels.quantize=truncate")  # fmt: skip
    assert darker["scores"]["psnr"]["value"] != ways[0]["scores"]["psnr"]["value"]
    assert darker["protocol"]["pixels"] == {"size": SIZE, "quantize": "truncate"}
    with pytest.raises(ValueError, match="images of 72 pixels, this tokenizer is for 16: pixels.resize=adm"):
        evaluate(runs["conv"], tmp_path / "t.json", f"images={tmp_path / 'png'}", "pixels.resize=none")


def test_lossless_reconstructions_are_named(runs, tmp_path):
    levels = np.random.default_rng(0).choice(GREYS, (6, 4, 4, 1)).astype(np.uint8)
    images = levels.repeat(4, 1).repeat(4, 2).repeat(3, 3)
    images[:2, :8] += 1
    np.savez(tmp_path / "greys.npz", arr_0=images)
    result = evaluate(
        runs["patches"], tmp_path / "r.json", f"images={tmp_path / 'greys.npz'}", "scores=psnr,ssim,codes"
    )
    assert result["scores"]["psnr"]["infinite"] == 4 and 45 < result["scores"]["psnr"]["value"] < 60
    assert result["warnings"]["lossless_images"].startswith("4 of 6 images came back exactly")
    assert "trained_on" not in result["warnings"]
    np.savez(tmp_path / "greys.npz", arr_0=images[2:])
    result = evaluate(runs["patches"], tmp_path / "s.json", f"images={tmp_path / 'greys.npz'}", "scores=psnr,ssim")
    assert list(result["scores"]) == ["ssim"] and result["scores"]["ssim"]["value"] == pytest.approx(1)
    assert "all of them" not in result["warnings"]["lossless_images"]


def test_lpips_of_a_random_network(runs, tmp_path):
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.vgg16().features.state_dict().items()}
    rng = torch.Generator().manual_seed(0)
    state = {f"features.{k}": torch.randn(s, generator=rng) * (2 / s[1:].numel()) ** 0.5 for k, s in shapes.items()}
    torch.save(state, tmp_path / "vgg.pth")
    words = ["scores=lpips_vgg", f"lpips_vgg_weights={tmp_path / 'vgg.pth'}"]
    with pytest.raises(ValueError, match="the lpips_vgg weights have sha256 .* not the published file"):
        evaluate(runs["conv"], tmp_path / "r.json", *words)
    result = evaluate(runs["conv"], tmp_path / "r.json", *words, "unverified=true")
    lpips, images = open_lpips("vgg", str(tmp_path / "vgg.pth"), torch.device("cpu")), heldout()
    expected = lpips(images, through(runs["conv"], images)[1])
    found = result["scores"][f"perceptual_distance(lpips_vgg-{lpips.sha256[:8]})"]
    assert found["value"] == pytest.approx(float(expected.mean()), rel=1e-3)
    assert found["width"] == pytest.approx(float(expected.std()) / 287**0.5, rel=1e-2)


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Frechet, of fewer vectors than they are wide: the root's trace is the nuclear norm of one set by the other."""
    f, g = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    root = torch.linalg.svdvals(f @ g.T).sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + f.square().sum() + g.square().sum() - 2 * root)


def test_frechet_distances_of_a_random_inception(runs, inception, tmp_path):
    np.savez(tmp_path / "few.npz", arr_0=heldout()[::24].permute(0, 2, 3, 1).numpy())
    words = [f"images={tmp_path / 'few.npz'}", "scores=rfid,pfid", "pfid_alphas=[0.9]", "pfid_deltas=[400]",
             f"inception_weights={inception}"]  # fmt: skip
    with pytest.raises(ValueError, match="not the published file"):
        evaluate(runs["conv"], tmp_path / "r.json", *words)
    result = evaluate(runs["conv"], tmp_path / "r.json", *words, "unverified=true")
    network, images = open_network(str(inception), torch.device("cpu")), heldout()[::24]
    tokenizer, _ = load_tokenizer(runs["conv"])
    change = perturbations(tokenizer, Grid((0.9,), (400,)))[0.9, 400]
    with torch.no_grad():
        codes = tokenizer.encode(to_float(images))
        sets = [images, *(to_uint8(tokenizer.decode(c)) for c in (codes, change(codes, torch.arange(len(codes)))))]
    real, plain, perturbed = (network(x, {"pool"})["pool"].double() for x in sets)
    name = f"inception-{network.sha256[:8]}"
    assert {k: v["value"] for k, v in result["scores"].items()} == {
        f"reconstruction_frechet({name})": pytest.approx(distance(real, plain), rel=1e-4),
        f"perturbed_frechet@0.9x400({name})": pytest.approx(distance(real, perturbed), rel=1e-4),
    }
    assert distance(real, perturbed) > 1.01 * distance(real, plain)
    assert {"image_count", "few_images"} <= set(result["warnings"])
    assert result["protocol"]["scores"]["pfid"]["neighbours"] == {"75": [7]}
    assert len(list((tmp_path / "cache").glob("reference-*[0-9a-f]"))) == 1, "measured once for all tokenizers"


def test_the_command_and_its_errors(runs, tmp_path):
    printed = succeeds("evaluate.py", "tokenizer", runs["pyramid"], "scores=psnr,codes", "split=train")
    assert "1,580 images of emoji/train" in printed and "scale 4x4" in printed
    assert "warning: trained_on" in printed and (runs["pyramid"] / "scores.json").is_file()
    fails("there is no lpisp; choose from rfid, psnr", "evaluate.py", "tokenizer", runs["conv"], "scores=lpisp")
    with pytest.raises(ValueError, match=r"not those of the training any more .* say data=emoji"):
        evaluate(runs["conv"], tmp_path / "r.json", "data.heldout=0.4", "scores=psnr")
    other = evaluate(runs["conv"], tmp_path / "r.json", "data=emoji", "data.heldout=0.01", "scores=psnr")
    assert other["protocol"]["count"] < 100
    with pytest.raises(ValueError, match="two ways to say the same"):
        evaluate(runs["conv"], tmp_path / "r.json", "data=emoji", "images=x")
    with pytest.raises(ValueError, match="which tokenizer"):
        main(["tokenizer", "scores=psnr"])
    with pytest.raises(ValueError, match="one tokenizer at a time"):
        main(["tokenizer", "a", "b"])
    with pytest.raises(FileNotFoundError, match="lpips_alex_weights=none.pth: no such file"):
        evaluate(runs["conv"], tmp_path / "r.json", "scores=lpips", "lpips_alex_weights=none.pth")
