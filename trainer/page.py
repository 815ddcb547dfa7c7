"""Self-contained HTML pages from the templates: no script, no address, nothing to fetch."""

import base64
import importlib.resources

from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound
from markupsafe import Markup

_FOLDER = importlib.resources.files("trainer") / "templates"


class _Templates(BaseLoader):
    def get_source(self, environment: Environment, template: str) -> tuple[str, str, None]:
        path = _FOLDER / template
        if not path.is_file():
            raise TemplateNotFound(template)
        return path.read_text(encoding="utf-8"), template, None


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def render(template: str, **values: object) -> str:
    """A page from a template; a name the template misses is an error."""
    environment = Environment(
        loader=_Templates(),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["svg"] = Markup
    return environment.get_template(template).render(**values)


def data_uri(png: bytes) -> str:
    """A PNG to put into a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
