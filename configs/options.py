"""Options: a dataclass beside the code that reads it; defaults <- YAML <- command line, merged by OmegaConf.

    python train.py configs/demo/generator.yaml optimization.lr=1e-3 unit=token --help

A *part* is an option whose value names a file: `sampler=ancestral` is `sampling/ancestral.py`, and that file's
`Options` dataclass is what `sampler.*` may hold. A new part is therefore one new file; nothing is registered. Parts
may hold parts (`sampler.rule=mrs`); a part's default is a name, or an instance of the file's Options.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.nodes import StringNode
from yaml import YAMLError

from pointillist.configs.stand_ins import PLAIN, print_help

ROOT = Path(__file__).resolve().parent.parent
HELP, CHOICES = {"-h", "--help"}, "=?"  # words that ask for help: these, and an option's name with CHOICES behind it


def option(default: Any, help: str = "", part: str = "") -> Any:
    """A dataclass field with a line for --help; `part` is the folder whose files are the choices."""
    metadata = {"help": help, "part": part}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    if is_dataclass(default):
        return field(default_factory=lambda: replace(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# ------------------------------------------------------------------------------------------------------------ parts


def choices(folder: str) -> list[str]:
    """Names of the parts in a folder: its files that define `Options`."""
    files = sorted((ROOT / folder).glob("*.py"))
    return [f.stem for f in files if "\nclass Options" in f.read_text(encoding="utf-8")]


def find(folder: str, name: str) -> ModuleType:
    """The module `folder/name.py`. Raises ValueError that lists the choices."""
    allowed = choices(folder)
    if name not in allowed:
        raise ValueError(f"no {folder}/{name}.py; choose one of {', '.join(allowed)}{did_you_mean(name, allowed)}")
    return importlib.import_module(f"pointillist.{folder.replace('/', '.')}.{name}")


def did_you_mean(word: str, allowed: list[str]) -> str:
    close = get_close_matches(word, allowed, n=1)
    return f". Did you mean '{close[0]}'?" if close else ""


# ---------------------------------------------------------------------------------------------------------- merging


def load(cls: type, yaml: str | Path | None = None, words: list[str] | tuple[str, ...] = ()) -> Any:
    """An instance of the dataclass `cls` from its defaults, a YAML file and `key=value` words, later ones winning.

    Raises ValueError (unknown key with the nearest known one, wrong type, word without '=') and FileNotFoundError.
    """
    return build(cls, read_yaml(yaml) if yaml else {}, words)


def build(cls: type, values: dict, words: list[str] | tuple[str, ...] = ()) -> Any:
    """As `load`, from a plain dict: this is how a config.json becomes options again."""
    names = [f.name for f in fields(cls)]
    pairs = [_pair(word, names) for word in words]
    try:
        if unknown := [f"{key}=" for key, _ in pairs if key.partition(".")[0] not in names]:
            OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.from_dotlist(unknown))  # raises, before any import
        base, values, pairs = _structure(cls, values, pairs)
        merged = OmegaConf.merge(base, values)
        for key, value in pairs:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([f"{key}={_quoted(base, key, value)}"]))
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as e:
        raise ValueError(f"option {e.full_key}: {str(e).splitlines()[0]}" if e.full_key else str(e)) from None
    except YAMLError as e:
        raise ValueError(f"cannot read {' '.join(words)}: {' '.join(str(e).split())}") from None


def _pair(word: str, names: list[str]) -> tuple[str, str]:
    """A command-line word as (dotted key, value)."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"expected key=value, got '{word}' (options are {', '.join(names)})")
    return key, value


def _structure(
    default: Any, values: dict, pairs: list[tuple[str, str]]
) -> tuple[DictConfig, dict, list[tuple[str, str]]]:
    """What may be said, with its defaults, for a dataclass or an instance of one whose parts are chosen by `values` and
    `pairs`; and these two with `part: NAME` and `part=NAME` turned into `part.name`, and settings of a part that was
    not chosen dropped from the values."""
    base, values = OmegaConf.structured(default), dict(values)
    for f in fields(default):
        if not (folder := f.metadata.get("part")):
            continue
        inner = [(k.removeprefix(f"{f.name}."), v) for k, v in pairs if k.startswith(f"{f.name}.")]
        inner += [("name", v) for k, v in pairs if k == f.name]
        pairs = [(k, v) for k, v in pairs if k != f.name and not k.startswith(f"{f.name}.")]
        usual = _default(f) if isinstance(default, type) else getattr(default, f.name)
        base[f.name], values[f.name], inner = _part(folder, f.name, usual, values.get(f.name), inner)
        pairs += [(f"{f.name}.{k}", v) for k, v in inner]
    return base, values, pairs


def _part(folder: str, key: str, usual: Any, given: Any, pairs: list) -> tuple[Any, dict, list]:
    """The structure of the part that is asked for: in `pairs`, else in the values `given`, else the usual one."""
    given = {"name": given} if isinstance(given, str) else given or {}
    if not isinstance(given, dict) or not isinstance(given.get("name", ""), str):
        raise ValueError(f"{key} must be one of {', '.join(choices(folder))}, got {given}")
    standard = usual if isinstance(usual, str) else getattr(usual, "name", "")
    before = given.get("name", standard)
    name = dict(pairs).get("name", before)
    if not name:
        return None, {}, pairs
    default = usual if is_dataclass(usual) and name == standard else find(folder, name).Options
    return _structure(default, {**given, "name": name} if name == before else {"name": name}, pairs)


def _quoted(base: DictConfig, key: str, value: str) -> str:
    """A value for a text option as YAML text, so that classes=010 or out=1.50 stay what was typed."""
    node: Any = base
    for step in key.split("."):
        node = node._get_node(step) if isinstance(node, DictConfig) and step in node else None
    return json.dumps(value) if isinstance(node, StringNode) and value != "null" else value


def read_yaml(path: str | Path, above: tuple[Path, ...] = ()) -> dict:
    """The values of a YAML file, on top of those of the file that its `base` key names, if any, beside it.

    above: files whose base this one is. Raises FileNotFoundError, and ValueError for what is no mapping in YAML.
    """
    if not Path(path).is_file():
        nearest = ", ".join(get_close_matches(str(path), shipped_configs(), n=5, cutoff=0))
        raise FileNotFoundError(f"no configuration file {path}; of those under configs/ the nearest are {nearest}")
    try:
        loaded = OmegaConf.load(path)
    except Exception as e:  # OmegaConf lets the YAML parser's many exception types through
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"{path} must hold `key: value` lines, got a {type(loaded).__name__}")
    values = OmegaConf.to_container(loaded)
    base = values.pop("base", None)
    if base is None:
        return values
    below = (*above, Path(path).resolve())
    if (Path(path).parent / str(base)).resolve() in below:
        raise ValueError(f"{path} has {base} as its base, whose base it is; leave one of them out")
    return OmegaConf.to_container(OmegaConf.merge(read_yaml(Path(path).parent / str(base), below), values))


def shipped_configs() -> list[str]:
    """Those that can be run: not what others only have as their base."""
    found = (ROOT / "configs").rglob("*.yaml")
    return sorted(str(p.relative_to(ROOT)) for p in found if p.parent.name != "families")


def to_dict(options: Any) -> dict:
    """Plain JSON-ready dict of a dataclass instance; `build` is its inverse."""
    return OmegaConf.to_container(OmegaConf.structured(options))


# --------------------------------------------------------------------------------------------------------------- help


def describe(cls: type, values: Any = None, prefix: str = "") -> list[str]:
    """One line an option: dotted key, default, help, choices."""
    hints, comments, lines = get_type_hints(cls), _comments(cls), []
    for f in fields(cls):
        value = getattr(values, f.name) if values is not None else _default(f)
        if is_dataclass(value):
            help = f.metadata.get("help") or comments.get(f.name, "")
            if help or f.metadata.get("part"):
                shown = f"[{value.name}] " if prefix and f.metadata.get("part") else ""
                lines.append(f"  {prefix + f.name:<28} {shown}{help}{_choices_of(f, hints)}")
            lines += describe(type(value), value, f"{prefix}{f.name}.")
        elif not (prefix and f.name == "name"):
            shown = "" if value is MISSING or value is None else f"[{_show(value)}] "
            help = f.metadata.get("help") or comments.get(f.name, "")
            lines.append(f"  {prefix + f.name:<28} {shown}{help}{_choices_of(f, hints)}".rstrip())
    return lines


def _comments(cls: type) -> dict[str, str]:
    """What stands in the comment behind each field, for classes whose floor does not know `option`."""
    written = [base for base in cls.__mro__[-2::-1] if base.__module__ != "types"]  # not made by make_dataclass
    lines = (line for base in written for line in inspect.getsource(base).splitlines())
    return dict(m.groups() for line in lines if (m := re.match(r"    (\w+): [^#]*#\s*(.+)", line)))


def _default(f: Field) -> Any:
    return f.default if f.default is not MISSING else f.default_factory() if f.default_factory is not MISSING else None


def _choices_of(f: Field, hints: dict) -> str:
    if f.metadata.get("part"):
        return f" ({' | '.join(choices(f.metadata['part']))})"
    if get_origin(hints[f.name]) is Literal:
        return f" ({' | '.join(map(str, get_args(hints[f.name])))})"
    return ""


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple, ListConfig)) else str(value)


# -------------------------------------------------------------------------------------------------------- command line


@dataclass
class Command:
    """What a script was asked: its positional words (a YAML, a run, images) and the `key=value` words."""

    targets: list[str]
    words: list[str]

    @property
    def target(self) -> str | None:
        """The positional word of a script that takes one."""
        return self.targets[0] if self.targets else None


def parse(
    argv: list[str],
    usage: str,
    cls: type,
    target: bool = True,
    many: bool = False,
    recipe: Callable[[str], list[str]] | None = None,
) -> Command:
    """Split argv; `--help` and `key=?` print and exit 0. target: whether the first word may stand without a key; many:
    whether any word may; recipe: for commands to which a YAML is no target but words, before those that are typed."""
    flags = [w for w in argv if w.startswith("-")]
    words = [w for w in argv if not w.startswith("-")]
    bare = [w for w in (words if many else words[:1]) if "=" not in w or (many and Path(w).exists())]
    targets = bare if target else []
    words = [w for w in words if w not in targets] if many else words[len(targets) :]
    if recipe and any(t.endswith((".yaml", ".yml")) for t in targets):
        if len(targets) > 1:
            raise ValueError(f"one recipe at a time, and nothing beside it; got {', '.join(targets)}")
        targets, words = [], recipe(targets[0]) + words
    if HELP & set(flags):
        yaml = next((t for t in targets if t.endswith((".yaml", ".yml"))), None)
        lines = describe(cls, load(cls, yaml, words))
        print("\n".join([textwrap.dedent(usage).strip(), "", "Options, with [defaults]:", *lines]))
        raise SystemExit(0)
    if flags:
        raise ValueError(f"unknown flag {flags[0]}: options are written key=value; --help lists them")
    for word in words:
        if word.endswith(CHOICES):
            name, others = word.removesuffix(CHOICES), [w for w in words if not w.endswith(CHOICES)]
            lines = [x for x in describe(cls, load(cls, None, others)) if x.split()[0].startswith(name)]
            print("\n".join(lines) or f"no option {name}; --help lists them")
            raise SystemExit(0)
    return Command(targets, words)


def pick_device(name: str) -> Any:
    """torch.device of `name`; auto is cuda if there is one. Raises ValueError for what is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        reason = str(e).splitlines()[0]
        raise ValueError(f"device={name} cannot be used here ({reason}); choose auto, cpu or cuda") from None
    return device


def run(main: Callable[[list[str]], None]) -> None:
    """Run a script's main: user errors become one line and exit code 2, Ctrl-C becomes exit code 130.

    Set POINTILLIST_TRACEBACK=1 to see where an error was raised.
    """
    argv = sys.argv[1:]
    if os.environ.get("POINTILLIST_TRACEBACK"):
        main(argv)
        return
    try:
        if PLAIN not in os.environ and any(w in HELP or w.endswith(CHOICES) for w in argv):
            print_help(main, argv)
        main(argv)
    except (ValueError, OSError, ImportError) as e:
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(e).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"\n{Path(sys.argv[0]).name}: stopped; the same command continues.", file=sys.stderr)
        raise SystemExit(130) from None
