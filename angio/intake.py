"""What every import does with a case once it is read: check, catalogue, report.

Knows no source format. A case that cannot be used becomes a line of the report; the rest goes on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8, UInt16
from pydantic import Field

from angio.burned_text import paint_over
from angio.deident import Relink, add_relinks
from angio.pixel_check import Checked, check
from angio.review import Desk
from casebook.annotations import AnnotationSet
from casebook.cases import Case, DeidRecord, PixelSpacing, View
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import Document, sha256_of
from casebook.errors import AngioloopError, StateError
from casebook.home import Home

Progress = Callable[[int, int], None]
RELINK_EVERY = 50


class ImportProblem(Document):
    """One row or file that was left out, and why."""

    where: str
    message: str


class ImportReport(Document):
    """What an import did."""

    source: str
    imported: int = 0
    replaced: int = 0
    """Cases that were there with other content."""
    unchanged: int = 0
    annotated: int = 0
    """Cases with expert annotations, of all usable ones."""
    splits: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[ImportProblem, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Incoming:
    """A case read from its source, with files ready to be written."""

    case: Case
    frames: dict[int, bytes]
    stored: dict[int, bytes]
    annotations: AnnotationSet | None = None
    patient_id: str = ""
    """The original id, for the re-link table only; empty when the source has none."""
    source_row: str = ""
    notes: tuple[str, ...] = ()
    """Kinds of disagreement worth counting."""


@dataclass
class Pictures:
    """The frames of one case as files, checked for burned-in text before any is given out."""

    spacing: PixelSpacing | None
    desk: Desk | None = None
    """Where doubtful frames are held and rulings are asked for; without one, doubt refuses."""
    patient: str = ""
    """Pseudonym, so that a withdrawal finds what was held."""
    source: str = ""
    """Where the case comes from, for who looks at held frames; kept in private/ only."""
    _rendered: dict[int, UInt8[np.ndarray, "h w"]] = field(default_factory=dict)
    _views: dict[int, View | None] = field(default_factory=dict)
    _stored: dict[int, UInt16[np.ndarray, "h w"]] = field(default_factory=dict)
    _vouched: set[int] = field(default_factory=set)
    _checked: Checked | None = None
    _files: dict[int, bytes] = field(default_factory=dict)

    def add(
        self,
        frame: int,
        rendered: UInt8[np.ndarray, "h w"],
        view: View | None,
        *,
        stored: UInt16[np.ndarray, "h w"] | None = None,
        ruled_clean: bool = False,
    ) -> None:
        """Add a frame; one that nobody has ruled clean is checked with its neighbours."""
        self._checked = None
        self._files.clear()
        self._rendered[frame], self._views[frame] = rendered, view
        if stored is not None:
            self._stored[frame] = stored
        if ruled_clean:
            self._vouched.add(frame)

    def _result(self) -> Checked:
        if self._checked is None:
            in_doubt = {k: v for k, v in self._rendered.items() if k not in self._vouched}
            self._checked = check(
                in_doubt, self._stored, self.desk, patient=self.patient, source=self.source
            )
        return self._checked

    @property
    def frames(self) -> dict[int, bytes]:
        """The rendered frames as PNG.

        Raises:
            DeidError: they seem to carry text and a person must look, or refused them.
        """
        boxes = self._result().boxes_xyxy
        for frame, pixels in self._rendered.items():
            if frame not in self._files:
                painted = paint_over(pixels, boxes)
                self._files[frame] = png_bytes(painted, self.spacing, self._views[frame])
        return self._files

    @property
    def stored(self) -> dict[int, bytes]:
        """The stored bits as 16-bit PNG, painted over where the rendered frames are.

        Raises:
            DeidError: as `frames`.
        """
        boxes = self._result().boxes_xyxy
        return {
            frame: png_bytes(paint_over(pixels, boxes), self.spacing, self._views[frame])
            for frame, pixels in self._stored.items()
        }

    def sha256(self, frame: int) -> str:
        """Identity of one rendered frame."""
        return sha256_of(self.frames[frame])

    def record(self, method: str, kept: tuple[str, ...] = (), removed: int = 0) -> DeidRecord:
        """What shows that the case carries no identity: tags, and what was found in the pixels."""
        result = self._result()
        return DeidRecord(
            method=method,
            kept_tags=kept,
            removed_elements=removed,
            pixel_text=result.pixel_text,
            masked_boxes_xyxy=result.boxes_xyxy,
        )


def take_in(
    home: Home,
    source: str,
    cases: Iterable[tuple[str, Callable[[], Incoming]]],
    *,
    total: int,
    notes: Iterable[str] = (),
    problems: Iterable[ImportProblem] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Read, check and catalogue cases one by one; what fails is reported and the rest goes on.

    Args:
        home: The workspace.
        source: Name of the import, for the report.
        cases: For each, where it comes from and a function that reads it.
        total: How many there are, for progress.
        notes: Remarks on the whole.
        problems: What was found wrong before.
        dry_run: Read and check everything, write nothing.
        progress: Told how many of how many are done.
    """
    catalogue = None if dry_run else Catalogue(home)
    outcome: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    failed = list(problems)
    relinks: list[Relink] = []
    try:
        for done, (where, read) in enumerate(cases, start=1):
            try:
                incoming = read()
                outcome[_file(catalogue, incoming)] += 1
            except AngioloopError as problem:
                failed.append(ImportProblem(where=where, message=str(problem)))
            else:
                outcome["annotated"] += incoming.annotations is not None
                splits[incoming.case.split.value] += 1
                remarks.update(incoming.notes)
                if incoming.patient_id:
                    relinks.append(_relink(incoming))
            if len(relinks) >= RELINK_EVERY and not dry_run:
                add_relinks(home, relinks)
                relinks.clear()
            if progress is not None:
                progress(done, total)
    finally:
        if relinks and not dry_run:
            add_relinks(home, relinks)
    counted = [f"{text} ({number} cases)" for text, number in sorted(remarks.items())]
    return ImportReport(
        source=source,
        imported=outcome["imported"],
        replaced=outcome["replaced"],
        unchanged=outcome["unchanged"],
        annotated=outcome["annotated"],
        splits=dict(sorted(splits.items())),
        notes=(*notes, *counted),
        problems=tuple(failed),
        dry_run=dry_run,
    )


def _relink(incoming: Incoming) -> Relink:
    case = incoming.case
    return Relink(case.patient, incoming.patient_id, case.case_id, incoming.source_row)


def _file(catalogue: Catalogue | None, incoming: Incoming) -> str:
    """Put a case into the catalogue unless it is there already."""
    if catalogue is None:
        return "imported"
    case = incoming.case
    try:
        known: Case | None = catalogue.get(case.case_id)
    except StateError:
        known = None
    if known == case and catalogue.expert_annotations(case.case_id) == incoming.annotations:
        return "unchanged"
    catalogue.add(case, incoming.frames, stored=incoming.stored, annotations=incoming.annotations)
    return "imported" if known is None else "replaced"


def around(frame: int, n_frames: int, neighbours: int) -> tuple[int, ...]:
    """A frame and so many on each side of it, as far as the run goes."""
    return tuple(range(max(0, frame - neighbours), min(n_frames, frame + neighbours + 1)))


def first_of_each(problems: Iterable[ImportProblem], most: int = 5) -> Iterator[str]:
    """Some problems as lines, for people."""
    listed = list(problems)
    for problem in listed[:most]:
        yield f"{problem.where}: {problem.message}"
    if len(listed) > most:
        yield f"… and {len(listed) - most} more (--json lists all)"
