"""What a command does not wait for: help comes without torch, word for word the same; a run imports what it uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pointillist.configs.options import ROOT, choices, describe, find
from pointillist.configs.stand_ins import PACKAGES, PLAIN, Finder, StandIn
from tests.commands import fails

PARTS = ["sampling", "sampling/drafters", "sampling/rules", "models/units", "tokenizers", "data", "training/tasks"]
PARTS += ["evaluation/commands", "evaluation/scores"]
HEAVY = {"datasets", "diffusers", "huggingface_hub", "matplotlib", "pandas", "scipy", "sympy", "timm", "transformers"}
HEAVY |= {"torch_fidelity", "torchvision", "triton", "xformers"}  # sympy, triton: of torch.compile

# A script as it is started, and then the top-level packages that it has imported, stand-ins left out.
WATCHED = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    real = [n for n, m in sys.modules.items() if "." not in n and type(m).__name__ != "StandIn"]
    print("\\n" + json.dumps(real), file=sys.stderr)
"""


def watched(script: Path, *words: object, **environment: str) -> tuple[str, set[str], int]:
    """stdout, packages imported, exit code."""
    line = [sys.executable, "-c", WATCHED, str(script), *map(str, words)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "POINTILLIST_TRACEBACK": ""} | environment
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=300)
    return done.stdout, set(json.loads(done.stderr.splitlines()[-1])), done.returncode


# ---------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    "command",
    [
        "sample.py --help",
        "train.py --help",
        "train.py configs/demo/tokenizer.yaml tokenizer=vqgan data=folder -h",
        "evaluate.py --help",
        "sample.py sampler=?",
        "train.py unit=?",
    ],
)
def test_help_needs_no_torch_and_is_the_same_without_it(command):
    script, *words = command.split()
    quick, imported, code = watched(ROOT / script, *words)
    plain, real, plain_code = watched(ROOT / script, *words, **{PLAIN: "1"})
    assert quick == plain and len(quick.splitlines()) > 1 and code == plain_code == 0
    assert not imported & (HEAVY | {"torch"})
    assert "torch" in real, "the control: these options lie beside code that needs torch"


def test_every_part_describes_itself_without_the_packages_that_it_computes_with():
    listing = (
        "from pointillist.configs.options import choices, describe, find\n"
        f"for folder in {PARTS}:\n"
        "    for name in choices(folder): print(folder, name, *describe(find(folder, name).Options), sep='\\n')"
    )
    stood_in = "import sys; from pointillist.configs.stand_ins import *; sys.meta_path.insert(0, Finder(PACKAGES))\n"
    line = [sys.executable, "-c", stood_in + listing + "\nassert type(sys.modules['torch']) is StandIn"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr[-1000:]
    real = [[folder, name, *describe(find(folder, name).Options)] for folder in PARTS for name in choices(folder)]
    assert done.stdout.splitlines() == [line for part in real for line in part]


def test_mistakes_beside_help_are_one_line():
    fails("no sampling/nosuch.py; choose one of ancestral", "sample.py", "--help", "sampler=nosuch")
    fails("Did you mean: 'guidance'?", "sample.py", "guidence=2", "--help")


@pytest.mark.parametrize("value", ["int(torch.ones(3).sum())", "3 if torch.ones(1).any() else 4"])
def test_a_file_that_computes_while_it_is_imported_gets_the_real_packages(value, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from pointillist.configs.options import parse, run\n"
        "def main(argv):\n"
        "    import torch\n"
        f"    default = {value}\n"
        "    Options = dataclass(type('Options', (), {'__annotations__': {'n': int}, 'n': default}))\n"
        "    Options.__module__ = 'types'\n"
        "    parse(argv, 'usage', Options, target=False)\n"
        "run(main)\n"
    )
    said, imported, code = watched(script, "--help")
    assert said.count("usage") == 1 and said.split()[-2:] == ["n", "[3]"] and code == 0 and "torch" in imported


def test_a_stand_in_can_be_named_but_has_no_value():
    torch = StandIn("torch")

    class Network(torch.nn.Module, torch.utils.data.Dataset):
        @torch.inference_mode()
        def forward(self, x: torch.Tensor | None) -> list[torch.Tensor]:
            return x

    assert Network.__mro__ == (Network, object) and {torch.float32: 1}
    uses: list[Callable] = [bool, str, repr, int, len, iter, lambda x: f"{x}", lambda x: x == 1, lambda x: x + 1]
    for use in [*uses, lambda x: x < 1, lambda x: isinstance(1, x)]:
        with pytest.raises(TypeError):
            use(torch.version)


def test_stand_ins_are_for_the_listed_packages_alone():
    finder = Finder(PACKAGES)
    assert finder.find_spec("torch") and finder.find_spec("torch.nn.functional")
    assert finder.find_spec("torchinfo") is None and finder.find_spec("pointillist.data") is None
    assert not {"omegaconf", "yaml", "pointillist"} & PACKAGES


# ------------------------------------------------------------------------------------------------------------- commands


def test_an_unknown_option_is_said_before_torch_is_imported():
    _, imported, code = watched(ROOT / "sample.py", "runs/x", "guidence=2")
    assert code == 2 and "omegaconf" in imported and "torch" not in imported


def test_the_first_image_waits_for_no_package_that_it_does_not_use(generator, tmp_path):
    _, imported, code = watched(ROOT / "sample.py", generator, "num_images=1", f"out={tmp_path / 'out'}")
    assert code == 0 and (tmp_path / "out" / "grid.png").is_file() and "torch" in imported
    assert not imported & HEAVY


def test_a_tokenizers_scores_import_no_network_that_they_do_not_use(tokenizer, tmp_path):
    words = ["tokenizer", tokenizer, "scores=psnr", f"out={tmp_path / 'scores.json'}"]
    _, imported, code = watched(ROOT / "evaluate.py", *words)
    assert code == 0 and "torch" in imported and not imported & HEAVY


def test_a_table_of_scores_needs_no_torch(tmp_path):
    said, imported, code = watched(ROOT / "evaluate.py", "table", tmp_path)
    assert "omegaconf" in imported and "torch" not in imported, (said, code)
