"""The offline result as text."""

from __future__ import annotations


def lines(result: dict) -> list[str]:
    """A score, its held-out yardstick and unit a line; then classes, warnings and the note."""
    protocol = result["protocol"]
    reference = protocol["reference"]
    head = f"{protocol['count']} samples, {result['samples']['size']} px, {protocol['label_policy']}"
    head += f" | reference {reference['name']}: {reference['count']} training, {reference['heldout']} held-out images"
    out = [head, "", f"{'':<34}{'samples':>10}{'held-out':>10}"]
    out += [f"{k:<34}{v['value']:>10.3f}{v['heldout']:>10.3f}  {v['unit']}" for k, v in result["scores"].items()]
    if result["classes"]:
        out += ["", f"{'class':<34}{'agreement':>10}{'held-out':>10}{'samples':>10}"]
    for row in result["classes"]:
        shares = "".join(f"{'-':>10}" if row[k] is None else f"{row[k]:>10.0%}" for k in ("agreement", "heldout"))
        out.append(f"{row['class']:<34}{shares}{row['samples']:>10}")
    out += [""] + [f"warning: {name}: {line}" for name, line in result["warnings"].items()]
    return [*out, result["note"]]
