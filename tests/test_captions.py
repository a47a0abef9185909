"""Captions as conditions: places in front of any plan, padding that nothing sees, files and texts of a person."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pointillist.configs.options import choices, find
from pointillist.models.condition import left_padded
from pointillist.models.generator import Generator, Options
from pointillist.models.plan import with_prefix
from pointillist.models.tree import Tree
from pointillist.models.units import patch
from pointillist.sampling import ancestral, jacobi, sjd, zipar
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.captions import read_captions
from pointillist.training.tasks import eagle, generator
from pointillist.zoo import llamagen, members
from pointillist.zoo.describe import config_of, unfilled
from tests import toys as t
from tests.toys import GRID, at, others, random_codes, teacher

LENGTH_OF_CAPTIONS = 120  # published
LENGTH, CHANNELS = 5, 6
MODEL = {"caption_length": LENGTH, "caption_channels": CHANNELS}
TOKENS = torch.tensor([3, 5, 1, 2])  # of four captions
MASK = torch.arange(LENGTH) < TOKENS[:, None]  # right padded, as encoders have it
COND, IMAGES = torch.tensor([0, 2, 5]), torch.arange(3)  # the last one: null under the mask of caption 1
CAPTIONED = ["cell", "dither", "line", "par", "patch", "subsample", "token"]


def captions(seed: int = 0) -> Tensor:
    return torch.randn(4, LENGTH, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def told(name: str = "token", mask: Tensor | None = MASK, **options) -> Generator:
    toy = t.toy(name, model=MODEL | options)
    toy.caption(captions(), mask)
    return toy


TOYS = {name: told(name) for name in CAPTIONED}


@pytest.fixture(params=CAPTIONED)
def toy(request) -> Generator:
    return TOYS[request.param]


def drawn(law, sampler=ancestral, cond: Tensor = COND, **options) -> Tensor:
    return sampler.sample(law, cond, Noise(3), IMAGES, Trace(), sampler.Options(**options))


# --------------------------------------------------------------------------------------------------------------- plans


def test_units_that_read_what_all_do_take_captions_and_others_name_them():
    for name in choices("models/units"):
        if name in CAPTIONED:
            continue
        with pytest.raises(ValueError, match=f"unit={name} reads a class .*: {', '.join(CAPTIONED)}"):
            t.toy(name, model=MODEL)


@pytest.mark.parametrize("name", CAPTIONED)
def test_a_prefix_is_causal_and_changes_nothing_behind_it(name):
    module = find("models/units", name)
    plan = module.plan(GRID, module.Options())
    more = with_prefix(plan, LENGTH)
    first = LENGTH - 1
    assert (more.length, more.prefix, more.num_learned) == (plan.length + first, first, plan.num_learned)
    assert torch.equal(more.mask[first:, first:], plan.mask) and more.mask[first:, :first].all()
    assert torch.equal(more.mask[:first], torch.ones_like(more.mask).tril()[:first])
    assert torch.equal(more.place_of, plan.place_of + first)
    assert all(map(torch.equal, more.groups, plan.groups))
    assert torch.equal(with_prefix(plan, 1).mask, plan.mask), "a condition of one token is what there was"


def test_patches_of_all_stages_have_the_prefix():
    toy = TOYS["patch"]
    assert [stage.plan.prefix for stage in toy.stages] == [LENGTH - 1] * len(patch.Options().sides)
    for progress in (0.0, 0.3, 1.0):
        assert torch.isfinite(toy.loss(random_codes(toy), COND, progress=progress)["loss"])


# ---------------------------------------------------------------------------------------------------- padding and null


def test_left_padded_keeps_the_tokens_in_order_and_nothing_else():
    features, mask = left_padded(captions(), MASK.long())
    for i, count in enumerate(TOKENS):
        assert torch.equal(features[i, LENGTH - count :], captions()[i, :count])
        assert not features[i, : LENGTH - count].any()
        assert mask[i].tolist() == [False] * (LENGTH - count) + [True] * int(count)
    again = left_padded(features, mask)
    assert torch.equal(again[0], features) and torch.equal(again[1], mask)


@torch.no_grad()
def test_padding_has_no_influence(toy):
    codes, expected = random_codes(toy), toy(random_codes(toy), COND)
    padding = torch.where(MASK[..., None], captions(), captions(1))
    toy.caption(padding, MASK)
    assert torch.equal(toy(codes, COND), expected)
    toy.captions.features = toy.captions.features + captions(2) * ~toy.captions.mask[..., None]
    assert torch.equal(toy(codes, COND), expected), "not even where it is not zero"
    toy.caption(captions()[:, :, :], torch.ones_like(MASK))
    seen = toy(codes, COND)
    assert (seen - expected)[:2].abs().max() > 1e-3, "the control: without the mask it is seen"
    toy.caption(captions(), MASK)
    assert torch.equal(toy(codes, COND), expected)


def test_a_place_sees_what_is_no_padding_and_itself(toy):
    places = torch.arange(toy.plan.length).expand(3, -1)
    visible = toy.visible(COND, places, toy.plan.length)
    tokens = toy.captions.mask[COND % 4]
    for i, mask in enumerate(visible):
        expected = toy.plan.mask.clone()
        expected[:, :LENGTH] &= tokens[i]
        assert torch.equal(mask, expected.fill_diagonal_(True))
    first = toy.visible(COND, places[:, :2], LENGTH)
    assert torch.equal(first, visible[:, :2, :LENGTH]), "decoding asks for some of it"


@torch.no_grad()
def test_shorter_captions_are_padded():
    toy, codes = told(), random_codes(TOYS["token"])
    expected = toy(codes, COND % 4)
    short = torch.tensor([0, 2, 3])  # captions of at most 3 tokens
    toy.caption(captions()[short, :3], MASK[short, :3])
    assert (toy(codes, torch.tensor([0, 1, 0])) - expected)[:2].abs().max() < 1e-12
    toy.caption(captions()[2:3, :1])
    assert (toy(codes[1:2], torch.tensor([0])) - expected[1:2]).abs().max() < 1e-12


@torch.no_grad()
def test_null_is_the_null_features_under_the_mask_of_the_caption():
    toy, codes = told(), random_codes(TOYS["token"])
    cond = torch.tensor([0, 2, 3])
    null = toy.null(cond)
    assert torch.equal(null, cond + 4) and torch.equal(toy.null(null), null)
    ours, tokens = toy(codes, null), toy.captions.mask[cond]
    toy.caption(toy.captions.uncond_embedding.expand(3, -1, -1), tokens)
    assert (ours - toy(codes, torch.arange(3))).abs().max() < 1e-12
    toy.caption(toy.captions.uncond_embedding.expand(3, -1, -1))
    assert (ours - toy(codes, torch.arange(3))).abs().max() > 1e-3, "the control: all null features seen"


@torch.no_grad()
def test_guidance_masks_both_halves():
    toy, codes = told(), random_codes(TOYS["token"])
    cond, law = torch.tensor([0, 2, 3]), target(TOYS["token"], 3)
    given, null = toy(codes, cond), toy(codes, toy.null(cond))
    state = law.start(cond, IMAGES, Noise(0))
    for group in law.groups(state):
        logits = law.query(state, group[:, None]).logits[:, 0]
        assert (logits - at(null + 3 * (given - null), group)).abs().max() < 1e-10
        law.commit(state, at(codes, group)[:, None], keep=1)


def test_a_share_of_captions_is_dropped_in_training_alone():
    toy = told(label_dropout=0.3)
    cond = torch.arange(4).repeat(500)
    assert torch.equal(toy.drop(cond), cond)
    torch.manual_seed(0)
    dropped = toy.train().drop(cond)
    assert set((dropped - cond).tolist()) == {0, 4} and 0.25 < float((dropped > 3).double().mean()) < 0.35


# ------------------------------------------------------------------------------------------------------------ decoding


@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(toy):
    codes = random_codes(toy)
    state = toy.start(COND, IMAGES, Noise(0))
    groups = toy.groups(state)
    for slots, expected in zip(groups, teacher(toy, codes, COND, groups, None), strict=True):
        logits = toy.query(state, slots[:, None]).logits
        assert (logits[:, 0] - expected).abs().max() < 1e-10
        toy.commit(state, at(codes, slots)[:, None], keep=1)
    assert torch.equal(toy.finish(state), codes)


@torch.no_grad()
@pytest.mark.parametrize("wide", [False, True], ids=["windows", "windows as wide as the caption"])
def test_windows_of_drafts_equal_the_full_forward(wide):
    """From the first pass on, whose window holds the caption; images advance at their own pace."""
    toy, m = TOYS["token"], 6 if wide else 3
    codes, chance = random_codes(toy), torch.Generator().manual_seed(2)
    full, state = toy(codes, COND), toy.start(COND, IMAGES, Noise(0))
    while bool((state.length < 16).any()):
        slots = state.length[:, None] + torch.arange(m)
        slots, inside = slots.clamp_max(15), slots < 16
        right = at(codes, slots)
        lucky = torch.rand(3, m - 1, generator=chance) < 0.6
        guess = torch.where(lucky, right[:, :-1], others(toy, right[:, :-1]))
        logits = toy.query(state, torch.where(inside, slots, -1)[..., None], guess[..., None]).logits[:, :, 0]
        kept = torch.minimum(1 + lucky.long().cumprod(1).sum(1), inside.sum(1))
        holds = torch.arange(m) < kept[:, None]
        assert (logits - at(full, slots))[holds].abs().max() < 1e-10
        toy.commit(state, right[..., None], kept)
    assert torch.equal(toy.finish(state), codes)


@torch.no_grad()
def test_trees_equal_the_full_forward():
    """Two chains of two guesses; the second is right. First with the caption in the pass, then behind it."""
    toy, tree = TOYS["token"], Tree.paths(2, 2)
    codes, state = random_codes(toy), TOYS["token"].start(COND, IMAGES, Noise(0))
    full = toy(codes, COND)
    for done in (0, 3, 6):
        slots = torch.tensor([0, 1, 2, 1, 2])[None, :, None].expand(3, -1, -1) + done
        guesses = torch.cat([others(toy, codes), codes], dim=1)[:, [done, done + 1, 16 + done, 17 + done]]
        logits = toy.query(state, slots, guesses[..., None], tree).logits[:, :, 0]
        path = torch.tensor([0, 3, 4]).expand(3, -1)
        assert (logits[:, path[0]] - full[:, done : done + 3]).abs().max() < 1e-10
        toy.commit(state, codes[:, done : done + 3, None], keep=3, path=path)
    logits = toy.query(state, torch.full((3, 1, 1), 9)).logits[:, 0, 0]
    assert (logits - full[:, 9]).abs().max() < 1e-10, "the keys that were kept"


@pytest.mark.parametrize("guidance", [1, 2.5])
def test_samplers_agree(guidance):
    law = target(TOYS["token"], guidance)
    expected = drawn(law)
    assert torch.equal(drawn(law, jacobi, window=4), expected)
    assert torch.equal(drawn(law, jacobi, window=8), expected)
    assert torch.equal(drawn(law, zipar, window=4), expected), "as wide as the plane it waits for the row above"
    assert drawn(law, sjd, window=4).shape == expected.shape
    assert not torch.equal(drawn(law, cond=torch.tensor([1, 3, 0])), expected), "the control: other captions"


@torch.no_grad()
def test_selected_images_keep_their_captions():
    law, codes = target(TOYS["token"], 2), random_codes(TOYS["token"])
    rows, slots = torch.tensor([2, 0]), torch.arange(5).expand(3, -1)[..., None]
    both = [law.start(torch.tensor([0, 2, 3]), IMAGES, Noise(0)) for _ in range(2)]
    for state in both:
        law.query(state, slots[:, :4], codes[:, :3, None])
        law.commit(state, codes[:, :4, None], keep=4)
    expected = law.query(both[0], slots[:, 4:]).logits[rows]
    assert (law.query(law.select(both[1], rows), slots[rows, 4:]).logits - expected).abs().max() < 1e-10


def test_a_caption_is_projected_only_with_its_own_places():
    toy, runs = told(), []
    toy.captions.fc1.register_forward_hook(lambda *_: runs.append(1))
    drawn(toy)
    assert len(runs) == 1


# ------------------------------------------------------------------------------------------------- errors and weights


def test_errors_say_what_to_do():
    untold = t.toy("token", model=MODEL)
    with pytest.raises(ValueError, match="given none; set captions= or prompt="):
        untold.start(COND, IMAGES, Noise(0))
    with pytest.raises(ValueError, match="given none"):
        target(untold, 2).start(COND, IMAGES, Noise(0))
    with pytest.raises(ValueError, match=r"captions must lie in 0\.\.3 \(\+ 4 = null\), got \[8\]"):
        told().start(torch.tensor([8]), IMAGES[:1], Noise(0))
    with pytest.raises(ValueError, match="draws classes, not captions"):
        t.toy("token").caption(captions())
    for features, mask in ((captions()[:, :, :5], None), (captions()[0], None), (captions().repeat(1, 2, 1), None)):
        with pytest.raises(ValueError, match=r"reads captions \[n, 5, 6\] or shorter, got \["):
            told().caption(features, mask)
    with pytest.raises(ValueError, match=r"first two axes, got \[4, 3\]"):
        told().caption(captions(), MASK[:, :3])
    for wrong in ({"caption_length": 3}, {"caption_channels": 3}, {"caption_length": -1, "caption_channels": -1}):
        with pytest.raises(ValueError, match="both be 0"):
            Options(**wrong)
    with pytest.raises(ValueError, match="use model.attention=sdpa, got flex"):
        Options(**MODEL, attention="flex")
    with pytest.raises(ValueError, match="AdaLN is of one class"):
        Options(**MODEL, adaln="block")


def test_the_null_features_are_saved_and_the_table_is_not():
    toy = told()
    keys = set(toy.state_dict())
    assert {"captions.fc1.weight", "captions.fc2.weight", "captions.uncond_embedding"} <= keys
    assert not any("class_embedding" in key or "features" in key or "captions.mask" in key for key in keys)
    assert "class_embedding.weight" in t.toy("token").state_dict()
    assert "captions.uncond_embedding" not in dict(toy.named_parameters())


@pytest.mark.parametrize("image_size", [256, 512])
def test_the_published_checkpoint_has_these_names_shapes_and_parameters(image_size):
    keys = json.loads((Path(__file__).parent / "golden/keys/llamagen_keys.json").read_text())
    listed = keys["models"]["GPT-XL t2i"]["state_dict"]
    published = {name: torch.empty(shape, device="meta") for name, shape in listed.items()}
    published |= {"freqs_cis": torch.empty(1, device="meta")}  # some files hold it
    member = members.member(f"llamagen-t2i-xl-{image_size}")
    kept = {k: v for k, v in published.items() if not any(re.fullmatch(p, k) for p in llamagen.DROPPED)}
    model = unfilled(config_of(member))
    ours = {name: tuple(value.shape) for name, value in member.convert(kept, {}).items()}
    assert ours == {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == member.parameters == 777_678_080
    assert model.plan.length == LENGTH_OF_CAPTIONS - 1 + (image_size // 16) ** 2


def test_training_tasks_refuse_captions():
    with pytest.raises(ValueError, match="trains on classes"):
        generator.Task(generator.Options(tokenizer="somewhere", model=Options(**MODEL)), torch.device("cpu"))
    with pytest.raises(ValueError, match="draws captions; a draft head"):
        eagle.check_target(told(), {}, eagle.Options(target="somewhere"))


# --------------------------------------------------------------------------------------------------------------- files


def write(path: Path, texts: list[str] | None = None, **arrays) -> Path:
    arrays = {"features": captions().float(), "mask": MASK.long()} | arrays
    arrays = {key: value for key, value in arrays.items() if value is not None}
    if path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in arrays.items()}, **({"texts": np.array(texts)} if texts else {}))
    else:
        save_file(arrays, path, {"texts": json.dumps(texts)} if texts else None)
    return path


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_of_features(tmp_path, suffix):
    texts = ["a cat", "a dog, sleeping", "ein Hügel", "d"]
    padded = F.pad(captions().float(), (0, 0, 0, 3), value=float("nan")), F.pad(MASK.long(), (0, 3))
    path = write(tmp_path / f"captions{suffix}", texts, features=padded[0], mask=padded[1])
    found = read_captions(path, "", LENGTH, CHANNELS)
    assert found.texts == texts and len(found) == 4 and found.features.dtype == torch.float32
    assert torch.equal(found.mask, MASK) and torch.equal(found.features, captions().float() * MASK[..., None])
    named = read_captions(write(tmp_path / f"unnamed{suffix}", mask=MASK), "", LENGTH, CHANNELS)
    assert named.texts == [f"caption {i}" for i in range(4)]
    toy, expected = told(), TOYS["token"](random_codes(TOYS["token"]), COND)
    toy.caption(found.features, found.mask)
    assert (toy(random_codes(toy), COND) - expected).abs().max() < 1e-5


NAN = captions().float().masked_fill(torch.arange(4)[:, None, None] == 2, float("nan"))


@pytest.mark.parametrize(("wrong", "message"), [
    ({"mask": None}, r"lacks mask; captions are features \[n, t, 6\]"),
    ({"features": None, "mask": None}, "lacks features and mask"),
    ({"features": captions()[:, :, :4].float()}, r"float32 \[4, 5, 4\]; this generator reads floats \[n, up to 5, 6\]"),
    ({"features": captions()[0].float()}, r"float32 \[5, 6\]"),
    ({"features": captions().long()}, "int64"),
    ({"mask": MASK[:, :4].long()}, r"mask of .* is \[4, 4\]; 0 and 1 of the shape \[4, 5\]"),
    ({"mask": MASK.long() * 2}, "0 and 1 of"),
    ({"features": NAN}, "not finite in caption 2"),
    ({"features": captions().repeat(1, 2, 1).float(), "mask": MASK.repeat(1, 2).long()},
     "caption 0, 'caption 0', has 6 tokens; this generator reads 1 to 5"),
    ({"mask": MASK.long() * 0}, "has 0 tokens"),
    ({"texts": ["one"]}, "holds 4 captions and 1 texts"),
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_errors_of_files_are_one_line(tmp_path, wrong, message, suffix):
    path = write(tmp_path / f"captions{suffix}", **wrong)
    with pytest.raises(ValueError, match=message) as error:
        read_captions(path, "", LENGTH, CHANNELS)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file"):
        read_captions(tmp_path / "missing.npz", "", LENGTH, CHANNELS)
    for name in ("broken.npz", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no such thing")
        with pytest.raises(ValueError, match="cannot be read"):
            read_captions(tmp_path / name, "", LENGTH, CHANNELS)
    np.savez(tmp_path / "objects.npz", features=np.array(["a"]), mask=np.array([1]))
    with pytest.raises(ValueError, match="features has the type"):
        read_captions(tmp_path / "objects.npz", "", LENGTH, CHANNELS)
    with pytest.raises(ValueError, match="text_encoder=FOLDER"):
        read_captions(["a cat"], "", LENGTH, CHANNELS)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_captions(["a cat"], str(tmp_path / "none"), LENGTH, CHANNELS)
    with pytest.raises(ValueError, match="no text to draw"):
        read_captions([" "], "", LENGTH, CHANNELS)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="no text to draw"):
        read_captions(tmp_path / "empty.txt", "", LENGTH, CHANNELS)


def test_texts_without_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install transformers"):
        read_captions(["a cat"], str(tmp_path), LENGTH, CHANNELS)


def test_texts_through_a_random_encoder(tmp_path):
    """A text's features are the same alone and beside a longer one."""
    import transformers

    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "red", "cat", "sleeps"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path)
    shape = {"d_model": CHANNELS, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": len(words)}
    torch.manual_seed(0)
    transformers.T5EncoderModel(transformers.T5Config(**shape)).save_pretrained(tmp_path)

    (tmp_path / "prompts.txt").write_text("a cat\n\na red cat sleeps\n")
    both = read_captions(tmp_path / "prompts.txt", str(tmp_path), LENGTH, CHANNELS)
    alone = read_captions(["a cat"], str(tmp_path), LENGTH, CHANNELS)
    assert both.texts == ["a cat", "a red cat sleeps"] and both.mask.sum(1).tolist() == [3, 5]
    assert (both.features[0, :3] - alone.features[0]).abs().max() < 1e-5 and not both.features[0, 3:].any()
    with pytest.raises(ValueError, match="caption 0, 'a red red cat sleeps', has 6 tokens; this generator reads 1 to"):
        read_captions(["a red red cat sleeps"], str(tmp_path), LENGTH, CHANNELS)
    with pytest.raises(ValueError, match="has 6 channels, this generator reads 7"):
        read_captions(["a cat"], str(tmp_path), LENGTH, 7)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no T5 encoder") as error:
        read_captions(["a cat"], str(tmp_path / "none"), LENGTH, CHANNELS)
    assert "\n" not in str(error.value)
