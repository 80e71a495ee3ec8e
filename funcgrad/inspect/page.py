"""The report of a backward pass as a page: one HTML file with everything in it, which asks the network for nothing.

The page's parts lie in ``assets``. The report travels in a block of JSON. What it holds is a user's program, so the
page never takes it for markup, and its content security policy lets only the page's own scripts run,
known by their hashes.
The graph is laid out by dagre 3.1.3 (npm ``@dagrejs/dagre``, MIT, see ``assets/dagre-LICENSE.txt``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

SCRIPTS = ("model.js", "rows.js", "layout.js", "graph.js", "details.js", "page.js")


def write(report: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a report to a file.

    Args:
      report: what ``BackwardReport.to_dict()`` returns.
      path: the file, which is made or replaced; its folder must exist.
    """
    Path(path).write_text(render(report), encoding="utf-8")


def render(report: Mapping[str, Any]) -> str:
    """The page of a report, as HTML.

    Args:
      report: what ``BackwardReport.to_dict()`` returns.

    Raises:
      ValueError: if the report has a float that JSON has no name for. Reports write ``nan`` and ``inf`` as text.
    """
    style = asset("style.css")
    scripts = [library(), *map(asset, SCRIPTS)]
    policy = [
        "default-src 'none'",
        f"style-src {sha256(style)}",
        f"script-src {' '.join(map(sha256, scripts))}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    parts = {
        "policy": "; ".join(policy),
        "style": f"<style>{style}</style>",
        "report": f'<script type="application/json" id="report">{as_data(report)}</script>',
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # In one pass: what is filled in is not searched for further places.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], asset("template.html"))


def as_data(report: Mapping[str, Any]) -> str:
    """JSON in ASCII that no HTML parser finds the end of a script in."""
    text = json.dumps(report, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def library() -> str:
    """dagre, with its licence, and without the name of a file that is not there."""
    code = re.sub(r"\n//# sourceMappingURL=.*", "", asset("dagre-3.1.3.min.js"))
    return f"/*! dagre 3.1.3\n{asset('dagre-LICENSE.txt')}*/\n{code}"


def asset(name: str) -> str:
    return (resources.files("funcgrad.inspect") / "assets" / name).read_text(encoding="utf-8")


def sha256(text: str) -> str:
    """The source expression that allows a script or a style of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
