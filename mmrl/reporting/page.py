"""Templates of the pages: one file in which every text of a run is escaped; no scripts but for solids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmrl.reporting.progress import duration
from mmrl.reporting.sections import pieces
from mmrl.reporting.solids import Shelf
from mmrl.reporting.viewer import viewer_of
from mmrl.reporting.words import breakable, number, signed

TEMPLATES = Path(__file__).parent / "templates"
MOST_PROBLEMS = 30


def render(template: str, problems: list[str], shelf: Shelf | None = None, **values: Any) -> str:
    """The page. problems: what is not shown, the first MOST_PROBLEMS are told. shelf: the solids of the page."""
    told = {"problems": problems[:MOST_PROBLEMS], "problems_total": len(problems), "viewer": viewer_of(shelf)}
    return _environment().get_template(template).render(**told, **values)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # prompts, answers and reasons are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "duration": duration}
    environment.filters |= {"breakable": breakable, "trusted": Markup, "pieces": pieces}
    return environment
