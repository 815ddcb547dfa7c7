"""Specialists: an adapter for each vessel beside the generalist, compared on the frozen cases.

Each goes on from the promoted teacher on the training cases of its vessel alone, as many steps as
the last round. A specialist answers in CVAT only when a person adopts it. Knows no queue.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.cases import Split
from casebook.documents import Document, read_document, sha256_of, write_document
from casebook.errors import StateError
from casebook.home import Home
from casebook.specialists import Specialist, Specialists, write_specialists
from trainer.evaluate import scores_of
from trainer.requests import round_folders
from trainer.samples import annotation_digests, training_set
from trainer.scores import Mean, SplitScores, mean_of
from trainer.train import card_of, register, run
from trainer.work import Work

FILE = "specialists.json"
MIN_CASES = 4
"""A vessel with fewer training, validation or test cases gets no specialist."""


class Comparison(Document):
    """A vessel's specialist and the generalist on the same frozen cases, IoU with box."""

    vessel: str
    model_id: str
    cases: int
    """Training cases of the vessel."""
    steps: int
    val_generalist: Mean
    val_specialist: Mean
    val_gain: Mean
    test_generalist: Mean
    test_specialist: Mean
    test_gain: Mean
    """Reported, never deciding."""
    primary_deg: tuple[float, float] | None
    """Least and greatest angle of the training cases, LAO positive."""
    secondary_deg: tuple[float, float] | None

    @property
    def is_better(self) -> bool:
        """Whether the gain on the validation cases is clear of zero."""
        return self.val_gain.low > 0


class Comparisons(Document):
    """Every vessel's specialist beside one generalist."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    created: datetime
    generalist: str
    rounds: tuple[int, ...]
    vessels: tuple[Comparison, ...]
    left_out: tuple[str, ...] = ()
    """Vessels without a specialist, and why."""


def specialists(work: Work) -> str:
    """Train and compare a specialist for every vessel that has cases, and write the comparison.

    Raises:
        StateError: no teacher is promoted, or no vessel has enough cases.
    """
    home = work.folder.home
    generalist = work.registry.promoted()
    if generalist is None:
        raise StateError("no teacher is promoted; specialists go on from one. Run `make train`")
    rounds = tuple(
        folder.number for folder in round_folders(home) if folder.has("annotations.coco.json")
    )
    vessels, left_out = _vessels(work)
    rows = []
    for index, vessel in enumerate(vessels):
        row = _compare(work, vessel, generalist, rounds, index / len(vessels))
        rows.append(row)
    if not rows:
        raise StateError(f"no vessel has {MIN_CASES} cases in every split: {'; '.join(left_out)}")
    found = Comparisons(
        created=datetime.now(UTC),
        generalist=generalist,
        rounds=rounds,
        vessels=tuple(rows),
        left_out=left_out,
    )
    write_document(home.root / "rounds" / FILE, found)
    better = [row.vessel for row in rows if row.is_better]
    return f"{len(rows)} specialists, better than {generalist}: {', '.join(better) or 'none'}"


def _vessels(work: Work) -> tuple[list[str], tuple[str, ...]]:
    """Vessels with enough cases in every split, and what is said of the others."""
    counts: dict[str, dict[Split, int]] = {}
    for case in work.catalogue.cases():
        if case.vessel:
            counts.setdefault(case.vessel, dict.fromkeys(Split, 0))[case.split] += 1
    enough, left_out = [], []
    for vessel, by_split in sorted(counts.items()):
        if min(by_split.values()) >= MIN_CASES:
            enough.append(vessel)
        else:
            shown = ", ".join(f"{split.value} {count}" for split, count in by_split.items())
            left_out.append(f"{vessel} has {shown} cases, {MIN_CASES} of each are needed")
    return enough, tuple(left_out)


def _compare(
    work: Work, vessel: str, generalist: str, rounds: tuple[int, ...], fraction: float
) -> Comparison:
    config = work.config.train
    data = training_set(
        work.folder.home,
        work.catalogue,
        rounds,
        work.folder.manifest().labels,
        work.config.weights,
        measured=config.heads is not None,
        vessel=vessel,
        lesion_in_text=work.config.lesion_in_text,
    )
    digests = annotation_digests(work.folder.home, rounds)
    identity = [generalist, vessel, *digests, config.model_dump_json()]
    model_id = f"specialist-{_plain(vessel)}-{sha256_of('|'.join(identity).encode())[:8]}"
    steps = config.steps or 0
    if not work.registry.folder(model_id).joinpath("card.json").exists():
        work.progress("specialists", f"training {model_id}", fraction)
        directory = work.folder.home.root / "rounds" / "specialists" / model_id
        result = run(
            work, rounds, data, config, generalist, directory, step="specialists", vessel=vessel
        )
        register(work, card_of(work, model_id, result, data, parents=(generalist,)), result)
        steps = result.fit.steps

    def tell(message: str, _: float) -> None:
        work.progress("specialists", message, fraction)

    ours, theirs = scores_of(work, model_id, tell), scores_of(work, generalist, tell)
    views = [
        case.view
        for case in work.catalogue.cases(split=Split.TRAIN)
        if case.vessel == vessel and case.view is not None
    ]
    return Comparison(
        vessel=vessel,
        model_id=model_id,
        cases=len(data.samples),
        steps=steps,
        **_paired("val", ours.val, theirs.val, vessel),
        **_paired("test", ours.test, theirs.test, vessel),
        primary_deg=_span(view.primary_deg for view in views),
        secondary_deg=_span(view.secondary_deg for view in views),
    )


def _plain(vessel: str) -> str:
    return "".join(letter for letter in vessel.lower() if letter.isalnum()) or "vessel"


def _paired(name: str, ours: SplitScores, theirs: SplitScores, vessel: str) -> dict[str, Mean]:
    """Both models' means on a vessel's cases, and the mean of the differences."""
    other = theirs.iou_by_case()
    own = {case.case_id: case.iou_box for case in ours.cases if case.vessel == vessel}
    return {
        f"{name}_generalist": mean_of([other[case] for case in own]),
        f"{name}_specialist": mean_of(list(own.values())),
        f"{name}_gain": mean_of([iou - other[case] for case, iou in own.items()]),
    }


def _span(angles: Iterable[float]) -> tuple[float, float] | None:
    known = list(angles)
    return (min(known), max(known)) if known else None


def read_comparisons(home: Home) -> Comparisons:
    """The last comparison.

    Raises:
        StateError: there is none yet.
    """
    path: Path = home.root / "rounds" / FILE
    if not path.exists():
        raise StateError(f"{path} is not there. Run `trainer specialists` first")
    return read_document(path, Comparisons)


def adopt(home: Home) -> tuple[list[Specialist], list[str]]:
    """Let every specialist that is clearly better answer for its vessel's views.

    Views alone choose in CVAT: a specialist whose angles another vessel's cases share is left out.
    The adopted ones and what is said of the others come back.
    """
    found = read_comparisons(home)
    adopted, refused = [], []
    for row in found.vessels:
        shared = [other.vessel for other in found.vessels if other is not row and _meet(row, other)]
        if not row.is_better:
            gain = row.val_gain
            refused.append(
                f"{row.vessel}: gain {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] on "
                f"{gain.n} validation cases is not clear of 0"
            )
        elif row.primary_deg is None or row.secondary_deg is None:
            refused.append(f"{row.vessel}: no angles are known, nothing could choose it")
        elif shared:
            refused.append(f"{row.vessel}: its views also show {', '.join(shared)}")
        else:
            adopted.append(
                Specialist(
                    model_id=row.model_id,
                    vessel=row.vessel,
                    primary_deg=row.primary_deg,
                    secondary_deg=row.secondary_deg,
                )
            )
    write_specialists(home, Specialists(specialists=tuple(adopted)))
    names = ", ".join(entry.model_id for entry in adopted) or "none"
    home.audit("adopt", names, f"specialists beside {found.generalist}")
    return adopted, refused


def _meet(one: Comparison, other: Comparison) -> bool:
    """Whether the angles of two vessels overlap."""
    spans = (
        (one.primary_deg, other.primary_deg),
        (one.secondary_deg, other.secondary_deg),
    )
    return all(a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1] for a, b in spans)
