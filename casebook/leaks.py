"""Whether anything that trains is also scored: across the catalogue, rounds and phases of care.

A patient's PRE and POST runs share a pseudonym, so they are one patient here whatever their case
ids; the same pixels under two patients are found by their hash. Knows no images.
"""

from collections.abc import Iterator
from typing import Literal

from casebook.annotations import read_annotations
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.documents import Document
from casebook.home import Home
from casebook.rounds import Manifest, ManifestCase, RoundFolder

LeakKind = Literal[
    "patient in two splits",
    "pixels in two splits",
    "pixels of two patients",
    "frozen cases changed",
    "case trains that must not",
]


class Leak(Document):
    """One way by which what is scored could have been trained on."""

    kind: LeakKind
    where: str
    """`catalogue`, or the rounds concerned."""
    subject: str
    """The pseudonym, or the beginning of the pixels' hash."""
    cases: tuple[str, ...]
    """Some of the cases concerned."""

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.where}: {self.kind}: {self.subject} ({', '.join(self.cases)})"


class LeakReport(Document):
    """What the check looked at, and what it found."""

    cases: int
    patients: int
    rounds: tuple[int, ...]
    leaks: tuple[Leak, ...]


class _Seen:
    """Who was met in which split, and where."""

    def __init__(self) -> None:
        self.splits: dict[str, dict[Split, tuple[str, str]]] = {}

    def add(self, subject: str, split: Split, where: str, case_id: str) -> None:
        """Note one meeting; the first of each split is kept."""
        self.splits.setdefault(subject, {}).setdefault(split, (where, case_id))

    def leaks(self, kind: LeakKind) -> Iterator[Leak]:
        """Subjects in more than one split."""
        for subject, found in sorted(self.splits.items()):
            if len(found) > 1:
                places = sorted({where for where, _ in found.values()})
                cases = tuple(
                    f"{case_id} in {split.value}" for split, (_, case_id) in sorted(found.items())
                )
                shown = subject[:16]
                yield Leak(kind=kind, where=", ".join(places), subject=shown, cases=cases)


def rounds_of(home: Home) -> tuple[RoundFolder, ...]:
    """The rounds that have a manifest, in order."""
    numbers = sorted(
        int(path.parent.name)
        for path in (home.root / "rounds").glob("*/manifest.json")
        if path.parent.name.isdigit()
    )
    return tuple(RoundFolder(home, number) for number in numbers)


def find_leaks(home: Home) -> LeakReport:
    """Check the catalogue and every round against one another.

    Raises:
        DataError: a document of the workspace is damaged.
    """
    patients, pixels = _Seen(), _Seen()
    owners: dict[str, tuple[str, str]] = {}
    shared: list[Leak] = []
    splits: dict[str, Split] = {}
    for case in Catalogue(home).cases() if home.catalogue.exists() else ():
        splits[case.case_id] = case.split
        patients.add(case.patient, case.split, "catalogue", case.case_id)
        pixels.add(case.image_sha256, case.split, "catalogue", case.case_id)
        owner, first = owners.setdefault(case.image_sha256, (case.patient, case.case_id))
        if owner != case.patient:
            shared.append(
                Leak(
                    kind="pixels of two patients", where="catalogue",
                    subject=case.image_sha256[:16], cases=(first, case.case_id),
                )
            )  # fmt: skip
    folders = rounds_of(home)
    manifests = [folder.manifest() for folder in folders]
    for manifest in manifests:
        where = f"round {manifest.round:02d}"
        for split, entries in _parts(manifest):
            for entry in entries:
                patients.add(entry.patient, split, where, entry.at.case_id)
                pixels.add(entry.image_sha256, split, where, entry.at.case_id)
    found = [
        *patients.leaks("patient in two splits"),
        *pixels.leaks("pixels in two splits"),
        *shared,
        *_changed(manifests),
        *_strangers(folders, splits),
    ]
    return LeakReport(
        cases=len(splits),
        patients=len(patients.splits),
        rounds=tuple(manifest.round for manifest in manifests),
        leaks=tuple(found),
    )


def _parts(manifest: Manifest) -> tuple[tuple[Split, tuple[ManifestCase, ...]], ...]:
    """What a round does with its cases, whatever split they claim."""
    return (
        (Split.TRAIN, manifest.cases), (Split.VAL, manifest.val), (Split.TEST, manifest.test)
    )  # fmt: skip


def _changed(manifests: list[Manifest]) -> Iterator[Leak]:
    """Rounds whose frozen cases are not those of the first."""
    for manifest in manifests[1:]:
        for split in (Split.VAL, Split.TEST):
            first, here = (
                {(one.at.file_name, one.image_sha256) for one in dict(_parts(each))[split]}
                for each in (manifests[0], manifest)
            )
            if first != here:
                names = sorted({name for name, _ in first ^ here})
                yield Leak(
                    kind="frozen cases changed",
                    where=f"round {manifest.round:02d}",
                    subject=split.value,
                    cases=tuple(names[:5]),
                )


def _strangers(folders: tuple[RoundFolder, ...], splits: dict[str, Split]) -> Iterator[Leak]:
    """Annotated frames of a round that are of a case that may not train."""
    for folder in folders:
        if not folder.has("annotations.coco.json"):
            continue
        images = read_annotations(folder.file("annotations.coco.json")).images
        wrong = sorted(
            {one.case_id for one in images if splits.get(one.case_id, Split.TRAIN) != Split.TRAIN}
        )
        if wrong:
            yield Leak(
                kind="case trains that must not",
                where=f"round {folder.number:02d}",
                subject="annotations.coco.json",
                cases=tuple(wrong[:5]),
            )
