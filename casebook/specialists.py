"""Which model answers for images of which view: one vessel's specialist instead of the generalist.

`models/specialists.json` lists them; without the file the promoted model answers for all. Knows no
model.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from casebook.cases import View
from casebook.documents import Document, read_document, write_document
from casebook.home import Home

Angle = Annotated[float, Field(ge=-180, le=180)]


class Specialist(Document):
    """A registered model and the views it answers for, borders included."""

    model_id: str
    vessel: str
    """For people: which vessel these views show."""
    primary_deg: tuple[Angle, Angle] = (-180.0, 180.0)
    """Least and greatest; LAO positive, RAO negative."""
    secondary_deg: tuple[Angle, Angle] = (-180.0, 180.0)
    """Least and greatest; cranial positive, caudal negative."""

    @model_validator(mode="after")
    def _ordered(self) -> "Specialist":
        for name in ("primary_deg", "secondary_deg"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} goes from {low} to {high}; put the lesser first")
        return self

    def covers(self, view: View) -> bool:
        """Whether this view is one of its own."""
        (left, right), (down, up) = self.primary_deg, self.secondary_deg
        return left <= view.primary_deg <= right and down <= view.secondary_deg <= up


class Specialists(Document):
    """All specialists; the first that covers a view answers."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    specialists: tuple[Specialist, ...] = Field(default=(), max_length=16)

    def choose(self, view: View | None) -> Specialist | None:
        """The specialist for a view; none where the view is not known or nobody's."""
        if view is None:
            return None
        return next((entry for entry in self.specialists if entry.covers(view)), None)


def read_specialists(home: Home) -> Specialists:
    """The specialists of a workspace; none without a file.

    Raises:
        DataError: the file is damaged.
    """
    path = home.models / "specialists.json"
    return read_document(path, Specialists) if path.exists() else Specialists()


def write_specialists(home: Home, specialists: Specialists) -> None:
    """Replace the specialists; the functions take them up at the next request."""
    write_document(home.models / "specialists.json", specialists)
