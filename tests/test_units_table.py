"""benchmarks/units.py on made-up run folders: what a row says, in what order, and what a restart does not repeat."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pointillist.benchmarks import units, units_table
from pointillist.benchmarks.units_table import Unit, caption, is_measured, report, row_of, table
from pointillist.configs.options import find, load, to_dict

STEPS, SCORE = 50, "toy_frechet/emoji/0123abcd"
YAML = "# one code after another. Later sentences are left out.\ntask: generator\nout: runs/emoji/{name}\n"


def write(path: Path, value: dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(v) + "\n" for v in (value if isinstance(value, list) else [value])]
    path.write_text("".join(lines))


def write_checkpoint(run: Path, step: int, spec: dict, sha256: str = "ab") -> None:
    config = {"format": 1, "sha256": sha256, "spec": spec, "image_size": 16, "step": step}
    write(run / f"step_{step:08d}" / "config.json", config)
    weights = {"body.weight": torch.zeros(3, 4), "lift.weight": torch.zeros(99), "uplift.weight": torch.zeros(5)}
    save_file(weights, run / f"step_{step:08d}" / "model.safetensors")


def finished_unit(out: Path, name: str, score: float = 30.0, nll: float | None = 4.0, books: int = 1) -> Unit:
    """The files that a measured unit leaves."""
    unit = Unit(out / "configs" / f"{name}.yaml", out, out / "tokenizers" / "fsq")
    unit.config.parent.mkdir(parents=True, exist_ok=True)
    unit.config.write_text(YAML.format(name=name) + "tokenizer: runs/emoji/tokenizers/fsq\n")
    write(unit.tokenizer / "log.jsonl", [{"step": 1, "heldout_psnr": 20.0}, {"step": 2, "heldout_psnr": 24.5}])
    words = [f"out={unit.run}", f"tokenizer={unit.tokenizer}", f"steps={STEPS}"]
    write(unit.run / "options.json", to_dict(load(find("training/tasks", "generator").Options, unit.config, words)))
    write_checkpoint(unit.run, STEPS, {"grids": [[4, 4], [2, 2]], "vocab": [100] * books, "channels": 4})
    scored = [] if nll is None else [{"step": 24, "heldout_nll": 9.0}, {"step": 49, "heldout_nll": nll}]
    write(unit.run / "log.jsonl", [{"step": 48, "seconds": 61.4}, *scored])
    samples = unit.run / "samples"
    write(samples / "sample.json", {"trace": {"nfe_per_image": 19.0}})
    values = {SCORE: (score, 11.2), "class_agreement": (0.69, 0.59), "copy_rate": (0.028, 0.042)}
    write(samples / "scores.json", {"scores": {k: {"value": v, "heldout": h} for k, (v, h) in values.items()}})
    pixels = np.full((6, 16, 16, 3), int(score), np.uint8)
    np.savez(samples / "images.npz", arr_0=pixels, arr_1=np.array([0, 1, 2, 0, 1, 8]))
    write(unit.plan, {"seconds_per_step": 1.2, "steps": STEPS, "minutes": 1.0})
    write(unit.timing, {"checkpoint": "ab", "64": 0.0123, "1": 0.25})
    return unit


def cells(line: str) -> dict[str, str]:
    return dict(zip(units_table.COLUMNS, [c.strip() for c in line.strip("|").split("|")], strict=True))


@pytest.fixture
def commands(monkeypatch) -> list[str]:
    """The scripts that would have been started; none is."""
    started: list[str] = []
    monkeypatch.setattr(units, "step", lambda script, *words: started.append(script))
    return started


# --------------------------------------------------------------------------------------------------------------- table


def test_a_row_says_what_the_files_say(tmp_path):
    row = row_of(finished_unit(tmp_path, "par", nll=4.0, books=2))
    assert row["parameters"] == 3 * 4 + 5, "lift is frozen and not counted; uplift is another module"
    assert row["heldout_nll"] == 4.0 * 20, "the last one, in nats a code with all its books"
    assert row["what"] == "one code after another" and row["psnr"] == 24.5
    shown = cells(table([row])[2])
    assert shown["slots"] == "20 x 2" and shown["NFE"] == "19" and shown["training steps"] == "50"
    assert shown["bits a pixel"] == f"{80 / log(2) / 256:.4f}" and shown["held-out nats an image"] == "80.0"
    assert shown["toy score"] == "30.0" and shown["class agreement"] == "69.0%" and shown["copy rate"] == "2.8%"
    assert shown["ms an image, batch 1"] == "250.0" and shown["ms an image, batch 64"] == "12.3"
    assert shown["tokenizer (held-out PSNR)"] == "fsq (24.50 dB)" and shown["training s"] == "61"


def test_a_unit_without_likelihood_has_a_dash(tmp_path):
    shown = cells(table([row_of(finished_unit(tmp_path, "flow", nll=None, books=0))])[2])
    assert shown["held-out nats an image"] == shown["bits a pixel"] == "-"
    assert shown["slots"] == "20" and shown["toy score"] == "30.0"


def test_rows_are_grouped_by_tokenizer_then_sorted_by_score(tmp_path):
    rows = [row_of(finished_unit(tmp_path, n, s)) for n, s in (("a", 40.0), ("b", 9.5), ("c", 100.0), ("d", 10.0))]
    rows[1]["tokenizer"] = "vq"
    assert [cells(line)["unit"] for line in table(rows)[2:]] == ["d", "a", "c", "b"]
    rows[2]["score"] = 1.0
    assert [cells(line)["unit"] for line in table(rows)[2:]] == ["c", "d", "a", "b"], "the score decides"


def test_the_caption_holds_the_floor_once_and_refuses_two_networks(tmp_path):
    rows = [row_of(finished_unit(tmp_path, n)) for n in "ab"]
    text = "\n".join(caption(rows, "4 minutes, seed=0"))
    assert text.count("11.2") == 1 and SCORE in text and "4 minutes, seed=0" in text and "not an FID" in text
    rows[1]["score_name"] = "toy_frechet/emoji/another"
    with pytest.raises(ValueError, match="different networks"):
        caption(rows, "")


def test_the_report_is_a_table_and_a_figure_of_equal_image_numbers(tmp_path):
    made = [finished_unit(tmp_path, n, s) for n, s in (("a", 40.0), ("b", 20.0))]
    report(made[:1], tmp_path, "p")
    one = Image.open(tmp_path / "units.png").size
    report(made, tmp_path, "p")
    two = Image.open(tmp_path / "units.png").size
    assert two[1] - one[1] == 68 and two[0] == one[0], "a strip more"
    assert (tmp_path / "units.md").read_text().count("one code after another") == 2
    with np.load(made[1].run / "samples" / "images.npz") as its:
        np.savez(made[1].run / "samples" / "images.npz", arr_0=its["arr_0"], arr_1=its["arr_1"][::-1])
    with pytest.raises(AssertionError, match="another class"):
        report(made, tmp_path, "p")


def test_the_figure_pairs_images_of_one_class():
    pairs = units_table.spread_out(np.array([2, 0, 2, 2, 5]), np.array([0, 2, 2, 2, 1]))
    assert pairs == [(1, 0), (0, 1), (2, 2)], "two of class 2, one of class 0, none of class 5: no held-out image"


# -------------------------------------------------------------------------------------------------------------- driver


def test_steps_fill_the_minutes_and_the_first_do_not_count():
    slow = [{"step": s, "seconds": 5.0 * (s + 1)} for s in range(8)]
    log_lines = [*slow, *({"step": 8 + s, "seconds": 40.0 + 0.5 * (s + 1)} for s in range(32)), {"heldout_nll": 3.0}]
    plan = units.steps_for(log_lines, minutes=2)
    assert plan == {"seconds_per_step": 0.5, "steps": 240, "minutes": 2}
    assert units.steps_for(slow + log_lines[8:24], minutes=1)["steps"] == 120
    seconds = [0.2 * min(i, 20) + 0.6 * max(i - 20, 0) for i in range(1, 41)]  # two stages, 0.2 and 0.6 s a step
    assert units.steps_for([{"seconds": s} for s in seconds], minutes=1)["steps"] == 150
    with pytest.raises(AssertionError, match="8 steps"):
        units.steps_for(slow, minutes=2)


def test_a_finished_unit_starts_no_command(tmp_path, commands):
    unit = finished_unit(tmp_path, "par")
    units.measure(unit, units.Options(out=str(tmp_path)))
    assert commands == [] and is_measured(unit)


def test_only_what_is_missing_is_made(tmp_path, commands):
    unit = finished_unit(tmp_path, "par")
    (unit.run / "samples" / "scores.json").unlink()
    assert not is_measured(unit)
    units.measure(unit, units.Options(out=str(tmp_path)))
    assert commands == ["evaluate.py"]
    (unit.run / "samples" / "sample.json").unlink()
    units.measure(unit, units.Options(out=str(tmp_path)))
    assert commands[1:] == ["sample.py", "evaluate.py"]


def test_other_weights_are_timed_anew(tmp_path, monkeypatch):
    unit = finished_unit(tmp_path, "par")
    write_checkpoint(unit.run, STEPS, {"grids": [[4, 4]], "vocab": [100], "channels": 4}, sha256="cd")
    assert not is_measured(unit)

    def sample(script: str, run: Path, out: str, *words: str) -> None:
        write(Path(out.removeprefix("out=")) / "sample.json", {"trace": {"seconds_per_image": 7.0}})

    monkeypatch.setattr(units, "step", sample)
    units.time_sampling(unit)
    assert is_measured(unit) and json.loads(unit.timing.read_text()) == {"checkpoint": "cd", "64": 7.0, "1": 7.0}
    assert not (tmp_path / "timing").exists()


def test_changed_options_are_not_taken_for_finished(tmp_path, commands):
    """train.py is asked, which refuses them with a message."""
    unit = finished_unit(tmp_path, "par")
    unit.config.write_text(unit.config.read_text() + "batch_size: 7\n")
    units.measure(unit, units.Options(out=str(tmp_path)))
    assert commands == ["train.py"]


def test_a_stopped_training_stops_the_comparison(tmp_path, monkeypatch, capsys):
    unit = finished_unit(tmp_path, "par")
    stopped = tmp_path / "stopped"
    monkeypatch.setattr(units, "step", lambda *words: write_checkpoint(stopped, 3, {}))
    with pytest.raises(SystemExit) as e:
        units.train("generator", unit.config, stopped, "steps=9")
    assert e.value.code == 130 and "the same command continues" in capsys.readouterr().out
    monkeypatch.setattr(units, "step", lambda *words: write_checkpoint(stopped, 9, {}))
    units.train("generator", unit.config, stopped, "steps=9")


def test_units_are_named_and_chosen(tmp_path):
    for name in ("par", "token"):
        (tmp_path / f"{name}.yaml").write_text(YAML.format(name=name) + "tokenizer: runs/emoji/tokenizers/vq\n")
    (tmp_path / "shared.yaml").write_text("task: generator\nbatch_size: 32\n")
    found = units.find_units(tmp_path, Path("there"))
    assert [u.name for u in found] == ["par", "token"], "a base is no unit"
    assert found[0].run == Path("there/par") and found[0].tokenizer == Path("there/tokenizers/vq")
    assert units.choose(found, "") == found and units.choose(found, "token, par") == found[::-1]
    with pytest.raises(ValueError, match="no unit tokn; there are par, token. Did you mean 'token'"):
        units.choose(found, "par,tokn")
    with pytest.raises(ValueError, match="holds no unit"):
        units.find_units(tmp_path / "none", Path("there"))


def test_a_folder_holds_one_comparison(tmp_path):
    units.remember(tmp_path, {"minutes": 4.0, "images": 1000})
    units.remember(tmp_path, {"minutes": 4.0, "images": 1000})
    with pytest.raises(ValueError, match="minutes was 4.0, is 2.0; choose another out="):
        units.remember(tmp_path, {"minutes": 2.0, "images": 1000})
