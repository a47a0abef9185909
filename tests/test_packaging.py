"""The house's own rules: the root is the package, imports go down only, every option is read somewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from pointillist.configs.options import ROOT, choices, describe, find, load, read_yaml, shipped_configs
from pointillist.configs.recipes import IMAGENET, read_recipe
from pointillist.training.options import TrainOptions
from pointillist.training.request import Request

FLOORS = {
    "models": 1,
    "tokenizers": 1,
    "sampling": 2,
    "training": 3,
    "sweeps": 3,
    "evaluation": 3,
    "data": 3,
    "configs": 3,
    "zoo": 3,
}
PEERS = {("models", "tokenizers"), ("tokenizers", "models"), ("evaluation", "models"), ("evaluation", "tokenizers")}
SOURCES = [p for folder in FLOORS for p in (ROOT / folder).rglob("*.py")] + sorted(ROOT.glob("*.py"))

OPTION_CLASSES = {"Options", "Request", "Pixels", "Weights", "TrainOptions", "Views", "Optimization"}


def rooms_imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pointillist."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "pointillist":
            names |= {a.name for a in node.names if a.name in FLOORS}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pointillist.")}
    return names


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent != ROOT], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    room = path.relative_to(ROOT).parts[0]
    for other in rooms_imported(path) - {room}:
        assert other in FLOORS, f"{path.name} imports {other}, which is a script"
        assert FLOORS[other] <= FLOORS[room] and (room, other) not in PEERS, f"{room} may not import {other}"


def test_the_import_rule_sees_a_forbidden_import(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from pointillist.tokenizers.conv import Tokenizer\n")
    assert rooms_imported(bad) == {"tokenizers"}


def test_only_the_root_holds_an_init_file():
    tracked = [p for folder in FLOORS for p in (ROOT / folder).rglob("__init__.py")]
    assert not tracked and (ROOT / "__init__.py").is_file()


def test_hugging_face_tokenizers_is_not_shadowed(tmp_path):
    """A fake installed `tokenizers` must win over our folder for a script started in the root."""
    fake = tmp_path / "tokenizers"
    fake.mkdir()
    (fake / "__init__.py").write_text("here = 'installed'\n")
    code = f"import sys; sys.path[:] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import tokenizers; print(tokenizers.here)"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=clean)
    assert done.stdout.strip() == "installed", done.stderr
    (tmp_path / "root" / "tokenizers").mkdir(parents=True)
    (tmp_path / "root" / "tokenizers" / "__init__.py").write_text("here = 'shadow'\n")
    shadowed = code.replace(str(ROOT), str(tmp_path / "root"))
    done = subprocess.run([sys.executable, "-S", "-c", shadowed], capture_output=True, text=True, env=clean)
    assert done.stdout.strip() == "shadow", "the control: with an __init__.py our folder would win"


def test_every_module_of_the_package_is_listed():
    listed = set(re.findall(r'"(pointillist[\w.]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    present = {"pointillist." + ".".join(p.parent.relative_to(ROOT).parts) for p in SOURCES if p.parent != ROOT}
    assert present | {"pointillist"} == listed


def option_classes() -> dict[str, type]:
    found = {}
    for path in SOURCES:
        module = ast.parse(path.read_text(encoding="utf-8"))
        for node in module.body:
            if isinstance(node, ast.ClassDef) and node.name in OPTION_CLASSES:
                names = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
                found[f"{path.relative_to(ROOT)}:{node.name}"] = names
    return found


@pytest.mark.parametrize("where", option_classes())
def test_every_option_is_read_somewhere(where):
    """No dead options: each field's name occurs as an attribute `.name` in the sources."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in SOURCES)
    for name in option_classes()[where]:
        read = rf"\.{name}\b" if name not in {"task"} else r'"task"'
        assert re.search(read, text) or f'"{name}"' in text, f"{where} has the option {name}, which nothing reads"


@pytest.mark.parametrize("config", shipped_configs())
def test_every_shipped_config_is_valid(config):
    """Either kind: of a training, which names its task, or a recipe of sampling (tests/test_recipes.py)."""
    if (ROOT / config).is_relative_to(IMAGENET):
        recipe = read_recipe(ROOT / config)
        assert recipe.published and (recipe.not_runnable or load(Request, None, recipe.words()).num_images == 50_000)
        return
    task = read_yaml(ROOT / config)["task"]
    options = load(find("training/tasks", task).Options, ROOT / config)
    assert isinstance(options, TrainOptions) and options.steps > 0


def test_parts_are_found_by_file_name():
    for folder in ("tokenizers", "models/units", "sampling", "data", "training/tasks"):
        assert choices(folder), folder
        for name in choices(folder):
            options = find(folder, name).Options
            assert is_dataclass(options) and fields(options) and describe(options) is not None


def test_help_does_not_wait_for_libraries_it_does_not_need():
    code = (
        "import sys; sys.argv = ['sample.py', '--help']; import runpy\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'diffusers', 'timm', 'torch_fidelity', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-200:] + done.stderr[-500:]
