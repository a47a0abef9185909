"""The one pass: sums and banks are those of all images, however it was cut, shared or stopped."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch

from pointillist.evaluation import tally
from pointillist.evaluation.measure import Pass
from pointillist.evaluation.samples import open_samples
from pointillist.evaluation.scores.inception_score import ClassSums
from pointillist.evaluation.tally import Tally, Wanted
from pointillist.training.processes import Processes

COUNT = 53
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
IMAGES[7] = IMAGES[3]  # a duplicate
IMAGES[9] = 200  # a flat one


class Blocks:
    """A network of means: [b, 12] of four quarters by colour, and logits that are differences of them."""

    def __init__(self):
        self.name, self.sha256, self.verified, self.layers = "blocks", "ab" * 32, False, {"pool": 12, "logits": 5}

    def __call__(self, images, layers):
        pool = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
        found = {"pool": pool, "logits": (pool[:, :5] - pool[:, 5:10]) / 8}
        return {layer: found[layer] for layer in layers}


KINDS = {"pool": {"moments", "bank"}, "logits": {"classes"}}


@pytest.fixture
def samples(tmp_path):
    np.savez(tmp_path / "images.npz", IMAGES)
    return open_samples(tmp_path / "images.npz")


@pytest.fixture
def begin(samples, tmp_path):
    def begin_(folder="pass", images=samples, network=None, group=None, **wanted):
        wanted = {"splits": np.arange(COUNT) // 20, "dtype": "float32", **wanted}
        asked = Wanted({"blocks": KINDS}, **wanted)
        return Pass(tmp_path / folder, images, {"blocks": network or Blocks()}, asked, group or Processes())

    return begin_


def direct():
    """Everything in one go: pool [N, 12] and logits [N, 5]."""
    found = Blocks()(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), ("pool", "logits"))
    return found["pool"], found["logits"]


def agrees(measured):
    pool, logits = direct()
    np.testing.assert_array_equal(measured.bank("pool"), pool.numpy())
    gaussian = measured.moments("pool")
    torch.testing.assert_close(gaussian.covariance, torch.cov(pool.double().T), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gaussian.mean, pool.double().mean(0), rtol=1e-12, atol=1e-12)
    whole = ClassSums.of(logits, np.arange(COUNT) // 20, 3)
    torch.testing.assert_close(measured.classes("logits").scores, whole.scores, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(measured.predicted, logits.argmax(1).numpy())
    assert measured.count == gaussian.count == COUNT
    return True


@pytest.mark.parametrize("together", [1, 10, 1024])
@pytest.mark.parametrize("batch", [1, 7, 16, 200])
def test_batches_change_nothing(begin, batch, together, monkeypatch):
    monkeypatch.setattr(tally, "TOGETHER", together)
    assert agrees(begin(f"b{batch}").run(batch, "t"))


class Stopped(Exception):
    pass


def stopping(samples, after):
    """The same images, but reading stops after so many batches, as a kill would."""
    left = [after]

    def read(index):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return samples.read(index)

    return replace(samples, read=read)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_stopped_pass_goes_on_and_counts_every_image_once(begin, samples, after):
    with pytest.raises(Stopped):
        begin(images=stopping(samples, after)).run(8, "t", save_every=0)
    seen = []

    def read(index):
        seen.extend(index)
        return samples.read(index)

    assert agrees(begin(images=replace(samples, read=read)).run(8, "t"))
    spot = list(range(4)) if after else []
    assert seen == spot + list(range(8 * after, COUNT)), "what was saved is not measured again, and the rest is"


def test_a_pass_that_was_stopped_often_has_the_same_sums_to_the_last_bit(begin, samples, monkeypatch):
    """Sums of floats depend on their order; the same images enter together whatever happened in between."""
    monkeypatch.setattr(tally, "TOGETHER", 24)
    whole = begin("whole").run(8, "t").tally.sums()
    for _ in range(4):
        with pytest.raises(Stopped):
            begin(images=stopping(samples, 1)).run(8, "t", save_every=0)
    stopped = begin().run(8, "t").tally.sums()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    monkeypatch.setattr(tally, "TOGETHER", 8)
    other = begin("other").run(8, "t").tally.sums()
    assert not all(torch.equal(whole[name], other[name]) for name in whole), "the control: order does matter"


def test_work_since_the_last_save_is_lost_not_counted_twice(begin, samples):
    first = begin(images=stopping(samples, 3))
    first.save = lambda: None  # a kill leaves no time to save
    with pytest.raises(Stopped):
        first.run(8, "t", save_every=0)
    assert agrees(begin().run(5, "t")), "with another batch size, too"


def test_another_request_begins_anew(begin, samples):
    begin().run(16, "t")
    shifted = Blocks()
    shifted.sha256 = "cd" * 32
    seen = []
    images = replace(samples, read=lambda index: (seen.extend(index), samples.read(index))[1])
    begin(images=images).run(16, "t")
    assert seen == [0, 1, 2, 3], "finished: a few are read to see that they are the same"
    seen.clear()
    begin(images=images, network=shifted).run(16, "t")
    assert len(seen) == COUNT
    begin(images=images, network=shifted, splits=np.arange(COUNT) % 3).run(16, "t")
    assert len(seen) == 2 * COUNT, "as many splits, but others"


def test_parts_of_processes_that_are_gone_are_kept(begin):
    """Two processes were killed half-way; one alone finishes."""
    for rank in (0, 1):
        part = begin()
        part.open()
        part.group = Processes(rank, 2)
        index = np.arange(20 * rank, 20 * rank + 13)
        part.tally = Tally(np.zeros(COUNT, bool)).with_batch(index, part._measure(index), part.wanted)
        part.save()
    assert agrees(begin().run(8, "t"))


def test_other_images_under_the_same_name_are_noticed(begin, samples, tmp_path):
    """Size and date of a file may be those of another."""
    begin().run(16, "t")
    np.savez(tmp_path / "other.npz", 255 - IMAGES)
    other = replace(open_samples(tmp_path / "other.npz"), identity=samples.identity)
    np.testing.assert_array_equal(
        begin(images=other).run(16, "t").bank("pool"), begin("fresh", images=other).run(16, "t").bank("pool")
    )


def test_computed_images_are_not_begun_anew_for_a_rounding(begin, samples):
    """A sampler in bf16 gives other pixels in a batch of four; hours of work are not lost for that."""
    half = replace(stopping(samples, 3), stored=False)
    with pytest.raises(Stopped):
        begin(images=half).run(8, "t", save_every=0)
    seen = []

    def otherwise(index):
        seen.extend(index)
        return samples.read(index) if len(index) == 8 or index[-1] == COUNT - 1 else 255 - samples.read(index)

    assert agrees(begin(images=replace(samples, read=otherwise, stored=False)).run(8, "t"))
    assert seen == list(range(24, COUNT))


def test_a_folder_that_lost_a_file_is_begun_anew(begin, tmp_path):
    begin().run(16, "t")
    (tmp_path / "pass" / "predicted.npy").unlink()
    assert agrees(begin().run(16, "t"))


def test_a_second_command_waits_for_the_first(begin, samples, capfd):
    """Both measure the same; the second finds everything done."""
    order = []

    def slowly(index):
        order.append("first")
        time.sleep(0.05)
        return samples.read(index)

    first = Thread(target=lambda: begin(images=replace(samples, read=slowly)).run(16, "t"))
    first.start()
    while not order:
        time.sleep(0.001)
    second = begin(images=replace(samples, read=lambda index: (order.append("second"), samples.read(index))[1]))
    assert agrees(second.run(16, "t"))
    first.join()
    assert order == ["first"] * 4 + ["second"], "and looks at a few images only"
    assert "another command is measuring" in capfd.readouterr().err


def test_an_image_counted_twice_is_a_mistake_of_ours():
    done = np.array([True, False])
    with pytest.raises(AssertionError, match="counted twice"):
        Tally(done) + Tally(done)
    with pytest.raises(AssertionError, match="counted twice"):
        Tally(done).with_batch(np.array([0, 1]), {}, Wanted({}))


def test_features_that_are_no_numbers_are_named(begin):
    class Broken(Blocks):
        def __call__(self, images, layers):
            found = super().__call__(images, layers)
            found["pool"][images.flatten(1).float().std(1) == 0] = float("nan")
            return found

    with pytest.raises(
        ValueError, match=r"1 of 16 images have NaN or infinite features \(blocks/pool\), the first is number 9"
    ):
        begin(network=Broken()).run(16, "t")

    class Large(Blocks):
        def __call__(self, images, layers):
            return {layer: 1000 * x for layer, x in super().__call__(images, layers).items()}

    with pytest.raises(ValueError, match="beyond float16; run it with bank=fp32"):
        begin("half", network=Large(), dtype="float16").run(16, "t")
    begin("full", network=Large(), dtype="float32").run(16, "t")


def test_a_damaged_state_is_named(begin, tmp_path):
    begin().run(16, "t")
    (tmp_path / "pass" / "state-0.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"state-0.safetensors is damaged .*delete .*pass to measure anew"):
        begin().run(16, "t")


def test_numbers_of_single_images_and_their_oddities(begin):
    def brightness(index, images):
        assert len(index) == len(images)
        return images.float().flatten(1).mean(1)

    measured = begin(rows={"brightness": brightness}).run(16, "t")
    np.testing.assert_allclose(measured.rows["brightness"], IMAGES.reshape(COUNT, -1).mean(1), rtol=1e-5)
    same = (measured.census.digest[:, None] == measured.census.digest).all(2)
    assert np.argwhere(np.triu(same, 1)).tolist() == [[3, 7]]
    assert np.flatnonzero(measured.census.flags).tolist() == [9]


PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
import numpy as np
from test_measure import Blocks, KINDS, COUNT, agrees
from pointillist.evaluation.measure import Pass
from pointillist.evaluation.samples import open_samples
from pointillist.evaluation.tally import Wanted
from pointillist.training.processes import processes
with processes() as group:
    wanted = Wanted({{"blocks": KINDS}}, splits=np.arange(COUNT) // 20, dtype="float32")
    run = Pass(Path({folder!r}), open_samples({images!r}), {{"blocks": Blocks()}}, wanted, group)
    measured = run.run({batch}, "t")
    assert agrees(measured)
    counted = f"{{group.rank}} {{group.count}} {{int(run.tally.done.sum())}}"
    Path({folder!r}).with_name(f"rank-{{group.rank}}").write_text(counted)
"""


@pytest.mark.parametrize("batch", [4, 40])  # 40: one of the two has a single short batch
def test_two_processes_share_the_images(samples, tmp_path, batch):
    code = PROGRAM.format(
        tests=os.path.dirname(__file__), folder=str(tmp_path / "shared"), images=samples.source, batch=batch
    )
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "program.py")], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [path.read_text().split() for path in sorted(tmp_path.glob("rank-*"))]
    assert [line[:2] for line in lines] == [["0", "2"], ["1", "2"]]
    assert sum(int(line[2]) for line in lines) == COUNT and all(int(line[2]) for line in lines)
