"""report.html: a whole run in one file that needs no network.

Everything a model wrote is untrusted. It reaches the page as JSON in a block that browsers do not
run, without a character that could end the block; the script puts it on the page as text, never as
HTML; and the page's policy lets nothing run or load but its own script, styles and data URIs.
"""

import base64
import hashlib
import html
import json
import os
import re
from importlib import resources
from pathlib import Path

from g2rpo_jax.report import gather

SAMPLES = 240
PICTURE_BYTES = 8_000_000
SCRIPTS = ("page.js", "charts.js", "rollouts.js", "start.js")


def write_page(
    workdir: Path,
    defaults: dict | None = None,
    *,
    out: Path | None = None,
    samples: int = SAMPLES,
    picture_bytes: int = PICTURE_BYTES,
) -> Path:
    """Writes the page of a run (finished, interrupted or running) and returns its path.

    Args:
      workdir: the run folder; nothing in it is changed, but for the page.
      defaults: the default configuration as plain dicts; the page marks what differs from it.
      out: the file to write; default `workdir`/report.html.
      samples: logged rows on the page at most, at even distances over the run.
      picture_bytes: bytes of pictures on the page at most.
    Raises:
      ValueError: if the folder holds no run.
    """
    data = gather.run_data(Path(workdir), defaults, samples, picture_bytes)
    path = Path(out) if out else Path(workdir) / "report.html"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(render(data), encoding="utf-8")
    os.replace(temporary, path)
    return path


def render(data: dict) -> str:
    """The page of `gather.run_data`'s result; ASCII but for its own templates."""
    script = "\n".join(_part(name) for name in SCRIPTS)
    style = _part("page.css")
    policy = (
        f"default-src 'none'; img-src data:; script-src {_hash(script)}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "TITLE": html.escape(_printable(f"{data['name']} · run report")),
        "POLICY": html.escape(policy),
        "STYLE": style,
        "DATA": embed(data),
        "SCRIPT": script,
    }
    # One pass: what is put in is not looked at again.
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def embed(data: object) -> str:
    """JSON that is safe inside a <script> block: ASCII, and no `<`, `>` or `&` in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _printable(text: str) -> str:
    """The text without lone surrogates, which have no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return (resources.files("g2rpo_jax.report") / name).read_text(encoding="utf-8")
