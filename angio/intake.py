"""What every import does with a case once it is read: check, catalogue, report.

Knows no source format. A case that cannot be used becomes a line of the report; the rest goes on.
"""

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8, UInt16
from pydantic import Field

from angio.burned_text import paint_over
from angio.deident import Relink, add_relinks, key_of
from angio.pixel_check import Checked, check
from angio.review import Desk
from angio.withdrawal import check_consent
from casebook.annotations import AnnotationSet
from casebook.cases import Case, DeidRecord, PixelSpacing, View
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import Document, sha256_of
from casebook.errors import AngioloopError, StateError
from casebook.home import Home

Progress = Callable[[int, int], None]
READERS = min(4, os.cpu_count() or 1)
"""Cases read side by side: decoding and encoding leave the interpreter to others."""
DRY_KEY = bytes(32)
"""Key of a dry run in a workspace that has none: nothing made with it is kept."""
_VARYING = re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\"|\d+(?:[.,×x]\d+)*")
_LISTED = re.compile(r"…(?:, …)+")


class ImportProblem(Document):
    """One row or file that was left out, and why."""

    where: str
    message: str
    part: bool = False
    """Only a part was left out: the case came in without it."""

    @property
    def kind(self) -> str:
        """The message without what differs from row to row: quoted text and numbers."""
        return _LISTED.sub("…", _VARYING.sub("…", self.message))


class ProblemGroup(Document):
    """All problems of one kind."""

    kind: str
    count: int
    examples: tuple[ImportProblem, ...]


class ImportReport(Document):
    """What an import did."""

    source: str
    imported: int = 0
    replaced: int = 0
    """Cases that were there with other content."""
    unchanged: int = 0
    not_read: int = 0
    """Cases that were there and, as asked, were not read again."""
    annotated: int = 0
    """Cases with expert annotations, of all usable ones."""
    splits: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[ImportProblem, ...] = ()
    groups: tuple[ProblemGroup, ...] = ()
    """The same problems by kind, the most frequent first."""
    dry_run: bool = False

    @property
    def left_out(self) -> int:
        """How many rows or files brought no case."""
        return sum(not problem.part for problem in self.problems)


@dataclass(frozen=True)
class Incoming:
    """A case read from its source, with files ready to be written."""

    case: Case
    frames: dict[int, bytes]
    stored: dict[int, bytes]
    annotations: AnnotationSet | None = None
    pseudo: AnnotationSet | None = None
    """What another program drew, on a case without expert annotations."""
    patient_id: str = ""
    """The original id, for the re-link table only; empty when the source has none."""
    source_row: str = ""
    notes: tuple[str, ...] = ()
    """Kinds of disagreement worth counting."""
    defects: tuple[str, ...] = ()
    """Parts that could not be used; the case comes in without them."""


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
    cases: Iterable[tuple[str, Callable[[], Incoming | None]]],
    *,
    total: int,
    notes: Iterable[str] = (),
    problems: Iterable[ImportProblem] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
    readers: int = 1,
) -> ImportReport:
    """Read, check and catalogue cases one by one; what fails is reported and the rest goes on.

    Args:
        home: The workspace.
        source: Name of the import, for the report.
        cases: For each, where it comes from and a function that reads it; that gives nothing for a
            case that is there and need not be read.
        total: How many there are, for progress.
        notes: Remarks on the whole.
        problems: What was found wrong before.
        dry_run: Read and check everything, write nothing.
        progress: Told how many of how many are done.
        readers: Cases read side by side, in threads; their functions must not share anything that
            changes. The order in which cases are filed and reported is that of `cases`.
    """
    catalogue = None if dry_run else Catalogue(home)
    outcome: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    failed = list(problems)
    for done, (where, read) in enumerate(_ahead(cases, readers), start=1):
        try:
            incoming = read()
            outcome["not_read" if incoming is None else _file(home, catalogue, incoming)] += 1
        except AngioloopError as problem:
            failed.append(ImportProblem(where=where, message=str(problem)))
        else:
            if incoming is not None:
                outcome["annotated"] += incoming.annotations is not None
                splits[incoming.case.split.value] += 1
                remarks.update(incoming.notes)
                failed += [
                    ImportProblem(where=where, message=defect, part=True)
                    for defect in incoming.defects
                ]
        if progress is not None:
            progress(done, total)
    counted = [f"{text} ({number} cases)" for text, number in sorted(remarks.items())]
    return ImportReport(
        source=source,
        imported=outcome["imported"],
        replaced=outcome["replaced"],
        unchanged=outcome["unchanged"],
        not_read=outcome["not_read"],
        annotated=outcome["annotated"],
        splits=dict(sorted(splits.items())),
        notes=(*notes, *counted),
        problems=tuple(failed),
        groups=grouped(failed),
        dry_run=dry_run,
    )


def _ahead(
    cases: Iterable[tuple[str, Callable[[], Incoming | None]]], readers: int
) -> Iterator[tuple[str, Callable[[], Incoming | None]]]:
    """The same in the same order, with the next ones being read while one is filed."""
    if readers <= 1:
        yield from cases
        return
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    begun: deque[tuple[str, Future[Incoming | None]]] = deque()
    try:
        for where, read in cases:
            begun.append((where, pool.submit(read)))
            if len(begun) > readers:
                first, future = begun.popleft()
                yield first, future.result
        while begun:
            first, future = begun.popleft()
            yield first, future.result
    finally:
        pool.shutdown(cancel_futures=True)


def _file(home: Home, catalogue: Catalogue | None, incoming: Incoming) -> str:
    """Put a case into the catalogue unless it is there already.

    Its line in the re-link table comes first: a kill between the two leaves no case without one.
    """
    case = incoming.case
    check_consent(home, case.patient)
    if catalogue is None:
        return "imported"
    try:
        known: Case | None = catalogue.get(case.case_id)
    except StateError:
        known = None
    if (
        known == case
        and catalogue.expert_annotations(case.case_id) == incoming.annotations
        and catalogue.pseudo_annotations(case.case_id) == incoming.pseudo
    ):
        return "unchanged"
    if incoming.patient_id:
        line = Relink(case.patient, incoming.patient_id, case.case_id, incoming.source_row)
        add_relinks(home, [line])
    catalogue.add(
        case, incoming.frames, stored=incoming.stored, annotations=incoming.annotations,
        pseudo=incoming.pseudo,
    )  # fmt: skip
    return "imported" if known is None else "replaced"


def grouped(problems: Iterable[ImportProblem], examples: int = 3) -> tuple[ProblemGroup, ...]:
    """Problems by kind with some examples of each, the most frequent kind first."""
    found: dict[str, list[ImportProblem]] = {}
    counts: Counter[str] = Counter()
    for problem in problems:
        kind = problem.kind
        counts[kind] += 1
        shown = found.setdefault(kind, [])
        if len(shown) < examples:
            shown.append(problem)
    return tuple(
        ProblemGroup(kind=kind, count=counts[kind], examples=tuple(shown))
        for kind, shown in sorted(found.items(), key=lambda entry: (-counts[entry[0]], entry[0]))
    )


def around(frame: int, n_frames: int, neighbours: int) -> tuple[int, ...]:
    """A frame and so many on each side of it, as far as the run goes."""
    return tuple(range(max(0, frame - neighbours), min(n_frames, frame + neighbours + 1)))


def key_for(home: Home, *, dry_run: bool) -> bytes:
    """The installation's key; a dry run makes none where there is none."""
    return DRY_KEY if dry_run and not (home.private / "key").exists() else key_of(home)
