"""Who may import whom: downwards only, and nothing heavy by accident."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "g2rpo_jax"

# Level of each module or folder; imports go to a higher number, or stay inside a folder.
LEVELS = {
    "neuron": 1,
    "sweep": 1,
    "plan": 1,
    "train": 2,
    "config": 3,
    "evaluate": 4,
    "rollout": 5,
    "checkpoint": 5,
    "models": 6,
    "rewards": 6,
    "data": 6,
    "parallel": 6,
    "metrics": 6,
    "report": 6,
    "advantages": 7,
    "ranks": 8,
    "objectives": 7,
    "settings": 5,
    "selection": 7,
    "shaping": 7,
    "masked": 9,
    "tables": 9,
    "platform": 8,
    "cli": 8,
    "catalogue": 1,
}
SAME_LEVEL = {
    ("models", "parallel"),
    ("data", "rewards"),
    ("report", "metrics"),
    ("report", "rewards"),
}


def imports(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("g2rpo_jax"):
            parts = node.module.split(".")
            if len(parts) > 1:
                found.add(parts[1])
            else:
                found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "g2rpo_jax" and len(parts) > 1:
                    found.add(parts[1])
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports(path) - {own}:
        down = LEVELS[other] > LEVELS[own] or (own, other) in SAME_LEVEL
        assert down, f"{own} (level {LEVELS[own]}) imports {other} (level {LEVELS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 500


def modules(path: Path) -> set[str]:
    """Dotted names of the package's files that a file imports at its top, or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("g2rpo_jax"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_no_files_import_one_another_in_a_circle():
    names = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in FILES}
    left = {name: modules(path) & set(names) - {name} for name, path in names.items()}
    while True:
        free = {name for name, needs in left.items() if not needs & set(left)}
        if not free:
            break
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"these files import one another in a circle, or stand above one: {left}"


def heavy(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(loaded.stdout.split())


def test_rewards_and_data_know_no_jax_and_nothing_knows_torch():
    assert not heavy("g2rpo_jax.rewards, g2rpo_jax.data.processor") & {"jax", "torch"}
    assert not heavy("g2rpo_jax.train.loop") & {"torch", "transformers"}
