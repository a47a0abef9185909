"""The zoo: members against the published key lists, and conversion of tiny checkpoints from end to end."""

from __future__ import annotations

import errno
import json
import re
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pointillist.configs.options import find
from pointillist.models.generator import steps_done
from pointillist.models.orders import pass_sizes
from pointillist.sampling.schedules import Schedule
from pointillist.training import checkpoint
from pointillist.training.load import described_generator, load_generator, load_tokenizer, tokenizer_of
from pointillist.zoo import llamagen, zoo
from pointillist.zoo.describe import config_of, imagenet_classes, shapes_of, unfilled
from pointillist.zoo.fit import converted, looks_like
from pointillist.zoo.members import family_of
from tests import fakes
from tests.fakes import zoo as folder  # noqa: F401

FOLDER = Path(__file__).parent / "golden" / "keys"
KEYS = json.loads((FOLDER / "llamagen_keys.json").read_text())
LIST = {"b": "GPT-B c2i", "l": "GPT-L c2i", "xl": "GPT-XL c2i", "xxl": "GPT-XXL c2i", "3b": "GPT-3B c2i"}


def recorded(m) -> tuple[dict[str, list[int]], list[str]]:
    """Shapes of a published checkpoint by name, buffers among them, and the names of the buffers."""
    if m.name.startswith("var"):
        name = "var_" + m.name.split("-")[1] + ("_512" if m.name == "var-vqvae-512" else "")
        told = json.loads((FOLDER / f"{name}_keys.json").read_text())
        return told["keys"], told["buffers"]
    if m.kind == "tokenizer":
        told = KEYS["models"]["VQ-8" if "vq-8" in m.name else "VQ-16"]
    else:
        size = next(part for part in m.name.split("-") if part in LIST)
        told = KEYS["models"]["GPT-XL t2i" if "t2i" in m.name else LIST[size]]
    shapes = dict(told["state_dict"])
    if m.name.startswith("par"):
        dim = shapes["norm.weight"][0]
        shapes["spe_tok_embeddings.special_embeddings.weight"] = [m.options["unit"]["regions"] - 1, dim]
    if m.name.startswith("randar"):
        shapes["pos_instruct_embeddings"] = [1, shapes["norm.weight"][0]]
    return shapes, told.get("buffers", [])


def published(m) -> dict[str, torch.Tensor]:
    """What is read of a published checkpoint, on the meta device."""
    dropped = family_of(m).DROPPED
    shapes = {k: v for k, v in recorded(m)[0].items() if not any(re.fullmatch(pattern, k) for pattern in dropped)}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


# ------------------------------------------------------------------------------------------------------------- members


def test_names_are_all_different_and_each_generator_has_its_tokenizer():
    assert len(set(zoo.names())) == len(zoo.names()) == 31
    for m in zoo.members():
        assert m.kind == "tokenizer" or m.address.count("/") == 1
        if m.kind == "generator":
            codec = zoo.member(m.tokenizer)
            assert (codec.kind, codec.image_size, codec.spec) == ("tokenizer", m.image_size, m.spec)
    with pytest.raises(ValueError, match="Did you mean 'llamagen-l-384'"):
        zoo.member("llamagen-L-384")


@pytest.mark.parametrize("m", zoo.members(), ids=lambda m: m.name)
def test_published_keys_and_shapes_fit_strictly_and_the_counts_are_those_published(m):
    shapes, buffers = recorded(m)
    weights = published(m)
    assert shapes.keys() - weights.keys() <= set(buffers), "only buffers are dropped"
    assert sum(prod(shape) for key, shape in shapes.items() if key not in buffers) == m.parameters
    codec = shapes_of(zoo.member(m.tokenizer)) if m.lifts else {}
    ours = converted(m, weights, {k: torch.empty(v, device="meta") for k, v in codec.items()}, Path(m.file))
    assert {key: tuple(value.shape) for key, value in ours.items()} == shapes_of(m)
    if not m.name.startswith("var"):  # which holds the tokenizer's lift here, and fewer position embeddings
        assert sum(p.numel() for p in unfilled(config_of(m)).parameters()) == m.parameters


def test_the_counted_parameters():
    told = {m.name: m.parameters for m in zoo.members()}
    for name, size in (("llamagen-b-384", "b"), ("npp-xxl-256", "xxl"), ("llamagen-3b-384", "3b")):
        assert told[name] == KEYS["models"][LIST[size]]["parameters"]
    assert (told["randar-l"], told["randar-xl"]) == (342_912_000, 774_700_800)


def test_every_published_file_has_its_members():
    files = {m.file for m in zoo.members()}
    for line in KEYS["published"]:
        assert set(line.split(" / ")) <= files, line


@pytest.mark.parametrize("name", ["llamagen-b-256", "llamagen-3b-384", "llamagen-vq-8-256", "par-3b-16x", "var-d16"])
def test_a_checkpoint_is_recognised_by_names_and_shapes_alone(name):
    m = zoo.member(name)
    found = [x for names in looks_like(published(m)).values() for x in names]
    assert name in found and {zoo.member(x).parameters for x in found} == {m.parameters}


def test_the_classes_are_imagenets_and_can_be_told_apart():
    names = imagenet_classes()
    assert len(set(names)) == len(names) == 1000
    assert [names[i].split(",")[0] for i in (0, 207, 207, 387, 974, 999)] == [
        "tench", "golden retriever", "golden retriever", "lesser panda", "geyser", "toilet tissue",
    ]  # fmt: skip


def test_published_schedules():
    """Recorded from the formulas of the publications: passes, codes a pass, guidance."""
    for name, passes in (("par-xl-4x", 147), ("par-3b-16x", 51), ("llamagen-l-384", 576), ("npp-b-256", 256)):
        m = zoo.member(name)
        module, options = find("models/units", m.options["unit"]["name"]), dict(m.options["unit"])
        assert len(module.plan(m.spec, module.Options(**options)).groups) == passes
    sizes = pass_sizes(256, zoo.member("randar-l").options["unit"]["passes"])
    assert {n: sizes.count(n) for n in set(sizes)} == {1: 24, 2: 9, 3: 16, 4: 29, 5: 10}
    assert next(i for i, n in enumerate(sizes) if n > 1) == 24
    steps = steps_done(torch.tensor([0]), 10, 10)  # VAR's cfg 1.5, read in (1 + t) c - t u
    scale = Schedule.parse("guidance", "1..2.5:steps", 0).at(torch.zeros_like(steps), steps)
    told = torch.tensor([1, 1.1667, 1.3333, 1.5, 1.6667, 1.8333, 2.0, 2.1667, 2.3333, 2.5])
    assert torch.allclose(scale[0].float(), told, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- conversion

CACHE = "layers.0.attention.kv_cache"
FORMS = {
    "flat": lambda w: w,
    "model": lambda w: {"model": w},
    "module": lambda w: {"module": w, "epoch": 1},
    "state_dict": lambda w: {"state_dict": w},
    "training": fakes.training,
    "compiled": lambda w: {"model": {f"_orig_mod.{k}": v for k, v in w.items()}},
    "distributed": lambda w: {"model": {f"module._orig_mod.{k}": v for k, v in w.items()}},
    "inside": lambda w: {"model": {k.replace("layers.", "layers._orig_mod."): v for k, v in w.items()}},
    "buffers": lambda w: {"model": w | {"freqs_cis": w["norm.weight"], f"{CACHE}.k_cache": w["norm.weight"]}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_in_any_wrapper_becomes_the_network(form, folder, tmp_path):  # noqa: F811
    weights = fakes.transformer()
    torch.save(FORMS[form](weights), folder / "tiny.pt")
    made = zoo.convert("tiny", folder, tmp_path / "into")
    assert made == tmp_path / "into" / "tiny" / "step_00000000"
    stored, ours = load_file(made / "model.safetensors"), llamagen.generator(weights, {})
    assert stored.keys() == ours.keys() and all(torch.equal(stored[k], ours[k]) for k in ours)


def test_what_is_written_is_a_run_of_ours(folder, tmp_path):  # noqa: F811
    made = zoo.convert("tiny", folder, tmp_path / "into")
    generator, config = load_generator(made.parent)
    assert config["kind"] == "generator" and config["unit"]["name"] == "token" and config["image_size"] == 16
    assert config["classes"] == imagenet_classes() and config["class_counts"] is None
    original = config["original"]
    assert original["sha256"] == checkpoint.file_hash(folder / "tiny.pt") and original["name"] == "tiny"
    assert (original["bytes"], original["file"]) == ((folder / "tiny.pt").stat().st_size, "tiny.pt")
    codec, described = load_tokenizer(tokenizer_of(config, made))
    assert described["original"]["file"] == "vq.pt" and config["tokenizer"]["sha256"] == described["sha256"]
    codes = torch.arange(16)[None]
    assert generator(codes, torch.tensor([3])).shape == (1, 16, 64) and codec.decode(codes).shape == (1, 3, 16, 16)
    assert not (any(p.requires_grad for p in generator.parameters()) or generator.training)
    assert torch.equal(zoo.load("tiny", into=tmp_path / "into").head.weight, generator.head.weight)


def test_the_folder_can_be_moved(folder, tmp_path):  # noqa: F811
    made = zoo.convert("tiny", folder, tmp_path / "into")
    (tmp_path / "into").rename(tmp_path / "moved")
    _, config = load_generator(tmp_path / "moved" / "tiny")
    found = tokenizer_of(config, tmp_path / "moved" / "tiny" / made.name)
    assert Path(found) == tmp_path / "moved" / "tiny-vq"


def test_every_family_converts_and_half_precision_becomes_fp32(folder, tmp_path):  # noqa: F811
    torch.save({"model": {k: v.half() for k, v in fakes.par_transformer().items()}}, folder / "alias.pt")
    save_file(fakes.transformer(pos_instruct_embeddings=torch.ones(1, fakes.DIM)), folder / "r.safetensors")
    torch.save(fakes.training(fakes.transformer()), folder / "tiny.pt")
    for name, unit in (("tiny-par", "par"), ("tiny-randar", "randar"), ("tiny-npp", "patch")):
        generator = zoo.load(name, folder, into=tmp_path / "into")
        assert generator.unit.name == unit and generator.head.weight.dtype == torch.float32
        assert generator(torch.arange(16)[None], torch.tensor([3])).isfinite().all()


def test_a_second_call_uses_the_conversion_again(folder, tmp_path, monkeypatch):  # noqa: F811
    into, original = tmp_path / "into", (folder / "tiny.pt").read_bytes()
    made = zoo.convert("tiny", folder, into)
    monkeypatch.setattr(checkpoint, "save", lambda *a, **k: pytest.fail("written again"))
    monkeypatch.setattr(zoo, "read_file", lambda *a, **k: pytest.fail("read again"))
    assert zoo.convert("tiny", folder, into) == zoo.convert("tiny", folder / "tiny.pt", into) == made
    (folder / "tiny.pt").unlink()
    assert zoo.convert("tiny", into=into) == made
    (folder / "tiny.pt").write_bytes(original)  # another time of change, the same content
    assert zoo.convert("tiny", folder, into) == made
    tuned = original[:-200] + bytes([original[-200] ^ 1]) + original[-199:]
    (folder / "tiny.pt").write_bytes(tuned)  # as long as the published file, and another
    with pytest.raises(ValueError, match=r"was converted from another tiny.pt \(\w{8}\) than .*; delete .*step_0") as e:
        zoo.convert("tiny", folder, into)
    assert "\n" not in str(e.value)
    (made / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"step_00000000 is damaged .*; delete .*step_00000000 to convert it anew"):
        zoo.convert("tiny", into=into)


def test_two_processes_at_once_do_no_harm(folder, tmp_path, monkeypatch):  # noqa: F811
    """Another one converts from beginning to end while this one prepares: its work stays, and is used."""
    saved, whole, prepared = [], checkpoint.save, zoo.origin
    monkeypatch.setattr(checkpoint, "save", lambda *a, **k: saved.append(a[0].name) or whole(*a, **k))

    def meanwhile(*told):
        monkeypatch.setattr(zoo, "origin", prepared)
        other = zoo.convert("tiny", folder, tmp_path / "into")
        (other / "mark").touch()
        return prepared(*told)

    zoo.convert("tiny-vq", folder, tmp_path / "into")
    monkeypatch.setattr(zoo, "origin", meanwhile)
    made = zoo.convert("tiny", folder, tmp_path / "into")
    assert (made / "mark").exists() and saved == ["tiny-vq", "tiny"]
    load_generator(made)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(stop, folder, tmp_path, monkeypatch):  # noqa: F811
    zoo.convert("tiny-vq", folder, tmp_path / "into")

    def fails(*_):
        raise stop

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)) as e:
        patch.setattr(checkpoint, "write_json", fails)  # the last thing that is written, after the weights
        zoo.convert("tiny", folder, tmp_path / "into")
    assert isinstance(stop, KeyboardInterrupt) or "make room, then run the same command" in str(e.value)
    assert not list((tmp_path / "into" / "tiny").iterdir())
    load_generator(zoo.convert("tiny", folder, tmp_path / "into"))


# -------------------------------------------------------------------------------------------------------------- misfits


@pytest.mark.parametrize(("name", "weights", "said"), [
    ("tiny", fakes.transformer(2 * fakes.DIM),
     r"wide.pt does not fit tiny: shape of cls_embedding.embedding_table.weight is \[1001, 128\], expected "
     r"\[1001, 64\]; it looks like LlamaGen \(tiny-wide\)"),
    ("tiny", fakes.transformer(depth=3),
     r"first unexpected keys layers.2.attention.wqkv.weight, .* and 3 more; it looks like nothing in the zoo"),
    ("tiny-par", fakes.transformer(),
     r"first missing keys learned.weight; it looks like LlamaGen \(tiny, tiny-twin\) or .*\(tiny-npp\)"),
    ("tiny", fakes.par_transformer(),
     r"first unexpected keys spe_tok_embeddings.special_embeddings.weight; it looks like PAR \(tiny-par\)"),
    ("tiny", fakes.tokenizer(), r"it looks like the tokenizer of LlamaGen \(tiny-vq\)"),
    ("tiny-vq", fakes.transformer(), r"first missing keys quantize.embedding.weight; it looks like LlamaGen"),
    ("tiny", {"bert.weight": torch.ones(2)}, r"it looks like nothing in the zoo: 1 tensors such as bert.weight"),
    ("tiny", {k: v for k, v in fakes.transformer().items() if "0.feed_forward.w3" not in k},
     r"first missing keys layers.0.feed_forward.w3.weight"),
])  # fmt: skip
def test_another_checkpoint_is_refused_and_named_before_anything_is_written(name, weights, said, folder, tmp_path):  # noqa: F811
    torch.save({"model": weights}, folder / "wide.pt" if name == "tiny" else folder / "other.pt")
    file = folder / ("wide.pt" if name == "tiny" else "other.pt")
    with pytest.raises(ValueError, match=said) as e:
        zoo.convert(name, file, tmp_path / "into")
    assert "\n" not in str(e.value) and not (tmp_path / "into" / name).exists()


def test_a_file_of_equal_shapes_with_another_members_name_is_refused(folder, tmp_path):  # noqa: F811
    """LlamaGen-B at 256 and at 384 pixels cannot be told apart by what is in them."""
    (folder / "tiny.pt").rename(folder / "twin.pt")
    with pytest.raises(ValueError, match=r"twin.pt has the name of tiny-twin, .* give tiny.pt, or rename the file"):
        zoo.convert("tiny", folder / "twin.pt", tmp_path / "into")


def test_a_file_of_another_name_is_somebody_elses_and_lies_apart(folder, tmp_path):  # noqa: F811
    """A fine-tune does not take the place of what was published."""
    into = tmp_path / "into"
    (folder / "tuned.pt").write_bytes((folder / "tiny.pt").read_bytes())
    tuned, made = zoo.convert("tiny", folder / "tuned.pt", into), zoo.convert("tiny", folder, into)
    assert (tuned.parent.name, made.parent.name) == ("tiny-tuned", "tiny")
    origins = [checkpoint.read_config(x)["original"] for x in (tuned, made)]
    assert [bool(x["address"]) for x in origins] == [False, True]
    assert zoo.convert("tiny", into=into) == made


def test_another_tokenizer_than_the_converted_one_is_refused(folder, tmp_path):  # noqa: F811
    into = tmp_path / "into"
    zoo.convert("tiny", folder, into)
    content = (folder / "vq.pt").read_bytes()
    (folder / "vq.pt").write_bytes(content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])
    with pytest.raises(ValueError, match=r"tiny-vq/step_0+ was converted from another vq.pt"):
        zoo.convert("tiny", folder, into)
    (folder / "vq.pt").unlink()
    assert zoo.convert("tiny", folder, into).exists()  # the one that was converted is there


def test_a_missing_tokenizer_is_named_with_its_address(folder, tmp_path):  # noqa: F811
    (folder / "vq.pt").unlink()
    for weights in (folder, folder / "tiny.pt"):
        with pytest.raises(FileNotFoundError) as e:
            zoo.convert("tiny", weights, tmp_path / "into")
        told = f"tiny needs its tokenizer tiny-vq: download https://huggingface.co/{llamagen.HUB}/resolve/main/vq.pt"
        assert str(e.value) == f"{told} into {folder}"
    assert not (tmp_path / "into").exists()


# ------------------------------------------------------------------------------------------------------- random weights


def test_random_weights_are_those_of_seed_0_and_leave_the_generator_of_others_alone(folder):  # noqa: F811
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name in ("tiny", "tiny-randar", "tiny-vq"):
        (one, config), (two, _) = zoo.random(name), zoo.random(name)
        assert config["kind"] == zoo.member(name).kind and config == config_of(zoo.member(name))
        for (key, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
            assert torch.equal(a, b) and a.isfinite().all(), key
        spread = torch.cat([p.flatten() for p in one.parameters() if p.ndim > 1]).std()
        assert abs(float(spread) - 0.02) < 0.001
    assert torch.equal(torch.get_rng_state(), before)
    generator = zoo.random("tiny")[0]
    logits = generator(torch.arange(16)[None], torch.tensor([3]))
    assert logits.std() > 0.01, "not the uniform law of an untrained model"
    assert torch.equal(generator.transformer.norm.weight, torch.ones(fakes.DIM))


def test_constructors_draw_nothing_for_weights_that_are_to_be_replaced(folder):  # noqa: F811
    config = config_of(zoo.member("tiny"))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    network = unfilled(config)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.plan.length == 16 and not any(x.is_meta for x in (*network.parameters(), *network.buffers()))
    described_generator(config, {}, {})
    assert not torch.equal(torch.get_rng_state(), before), "the control: it would have drawn"
