"""Which cases a round works on: manifest.json, and in round 1 the annotations that came with them.

Round 1 takes the training cases experts had annotated before there was a model. Validation and
test cases are frozen with round 1 and copied into every later manifest.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain

import numpy as np
from jaxtyping import Float32

from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import Case, Split
from casebook.catalogue import Catalogue
from casebook.documents import write_document
from casebook.errors import DataError, StateError
from casebook.labels import LabelSet
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from trainer.diversity import diverse
from trainer.rounds_config import SelectConfig
from trainer.work import Work

Uncertainty = Callable[[Case], float]
"""How unsure the promoted model is of a case; larger is less sure."""
Read = Callable[[str], AnnotationSet | None]
"""The annotations a case came with, by its id."""
Describe = Callable[[Sequence[Case]], Float32[np.ndarray, "n d"]]
"""A descriptor by the promoted model's encoder for each case."""


@dataclass(frozen=True)
class Signals:
    """What a strategy asks a model."""

    unsure: Uncertainty | None = None
    describe: Describe | None = None
    known: tuple[Case, ...] = ()
    """Cases of earlier rounds: what looks like them is known."""

    def with_known(self, cases: Iterable[Case]) -> "Signals":
        """The same, when these are chosen as well."""
        return replace(self, known=(*self.known, *cases))


NO_SIGNALS = Signals()


def select(work: Work) -> str:
    """Write the round's manifest, once."""
    folder = work.folder
    if folder.has("manifest.json"):
        return f"manifest.json is there: {len(folder.manifest().cases)} cases"
    labels = work.config.label_set()
    first = folder.number == 1
    manifest = _first(work, labels) if first else _next(work, labels)
    manifest.check_leaks()
    check_images(manifest)
    if first:
        read = _reader(work.catalogue, work.config.select)
        write_annotations(folder.file("annotations.coco.json"), given_set(manifest, read))
    write_document(folder.file("manifest.json"), manifest)
    frozen = f"{len(manifest.val)} validation, {len(manifest.test)} test"
    return f"{len(manifest.cases)} new cases, {frozen}"


def _first(work: Work, labels: LabelSet) -> Manifest:
    catalogue, config = work.catalogue, work.config.select
    read = _reader(catalogue, config)
    of_experts = config.source == "expert"
    found = catalogue.cases(split=Split.TRAIN, annotated=True if of_experts else None)
    given = [case for case in found if of_experts or read(case.case_id) is not None]
    planned = [case for case in given if case.round in (None, 1)]
    val = list(catalogue.cases(split=Split.VAL, annotated=True))
    test = list(catalogue.cases(split=Split.TEST, annotated=True))
    for cases, name in ((planned, "train"), (val, "val"), (test, "test")):
        if not cases:
            whose = "pseudo-label" if name == "train" and not of_experts else "expert"
            raise StateError(
                f"round 01: no {name} case with {whose} annotations in the catalogue; import some "
                "with `casebook import` (a round needs train, val and test cases)"
            )
    if config.strategy.startswith("uncertainty"):
        config = config.model_copy(update={"strategy": "order"})  # no model knows a case yet
    signals = _signals(work, config, ())
    chosen = [entry(case) for case in ordered(planned, config, config.cases, signals)]
    return Manifest(
        round=1,
        labels=labels,
        strategy=config.strategy,
        seed=config.seed,
        cases=tuple(chosen[: config.cases]),
        val=tuple(entry(case) for case in val),
        test=tuple(entry(case) for case in test),
        created=datetime.now(UTC),
    )


def _next(work: Work, labels: LabelSet) -> Manifest:
    number, config = work.folder.number, work.config.select
    earlier = [RoundFolder(work.folder.home, before).manifest() for before in range(1, number)]
    used = {case.at.case_id for case in chain.from_iterable(one.cases for one in earlier)}
    pool = [
        case
        for case in work.catalogue.cases(split=Split.TRAIN)
        if case.case_id not in used and (case.round is None or case.round <= number)
    ]
    if not pool:
        raise StateError(
            f"round {number:02d}: no unused training case is left for it; import more cases, or "
            "stop here"
        )
    return Manifest(
        round=number,
        labels=labels,
        strategy=config.strategy,
        seed=config.seed,
        cases=choose(pool, config, number, _signals(work, config, sorted(used))),
        val=earlier[0].val,
        test=earlier[0].test,
        created=datetime.now(UTC),
    )


def _signals(work: Work, config: SelectConfig, used: Iterable[str]) -> Signals:
    """What the strategy asks the promoted model; models are loaded when first asked."""
    unsure: Uncertainty | None = None
    if config.strategy.startswith("uncertainty"):
        from trainer.propose import uncertainty

        unsure = uncertainty(work)
    if not config.strategy.endswith("diversity"):
        return Signals(unsure)
    from trainer.descriptors import describing

    return Signals(unsure, describing(work), tuple(work.catalogue.get(one) for one in used))


def choose(
    pool: Sequence[Case], config: SelectConfig, number: int, signals: Signals = NO_SIGNALS
) -> tuple[ManifestCase, ...]:
    """The cases of a round: those planned for it first, then the strategy's, then the control's."""
    planned = [case for case in pool if case.round == number]
    others = [case for case in pool if case.round != number]
    wanted = min(config.cases, len(pool))
    n_control = round(config.control_fraction * wanted)
    unsure = signals.unsure
    scores = {case.case_id: unsure(case) for case in pool} if unsure else None
    n_chosen = wanted - n_control
    ranked = ordered(planned, config, n_chosen, signals, scores)
    if len(planned) < n_chosen:
        more = ordered(others, config, n_chosen - len(planned), signals.with_known(planned), scores)
        ranked += spread(more, config.per_patient)
    else:
        ranked += others
    strategy = ranked[:n_chosen]
    rest = sorted(ranked[n_chosen:], key=lambda case: _draw(case, config.seed, "control"))
    rest = spread(rest, config.per_patient, [case.patient for case in strategy])
    chosen = [entry(case, score=(scores or {}).get(case.case_id)) for case in strategy]
    control = [entry(case, is_control=True) for case in rest[:n_control]]
    return tuple(chosen + control)


def ordered(
    cases: Sequence[Case],
    config: SelectConfig,
    wanted: int,
    signals: Signals = NO_SIGNALS,
    scores: Mapping[str, float] | None = None,
) -> list[Case]:
    """Cases in the order of the strategy; ties and no scores fall back to the case id.

    Args:
        wanted: How many of them will be taken.
        scores: How unsure the model is by case id.
    """
    if config.strategy == "random":
        return sorted(cases, key=lambda case: _draw(case, config.seed, "strategy"))
    if cases and signals.describe is not None:
        return diverse(
            cases,
            signals.describe(cases),
            wanted,
            known=signals.describe(signals.known) if signals.known else None,
            scores=scores,
            quota=config.per_patient,
            seed=config.seed,
        )
    if scores is not None:
        return sorted(cases, key=lambda case: (-scores[case.case_id], case.case_id))
    return sorted(cases, key=lambda case: case.case_id)


def spread(cases: Sequence[Case], quota: int | None, taken: Iterable[str] = ()) -> list[Case]:
    """The same cases in the same order, but those above their patient's quota after all others.

    Args:
        taken: Patients of the cases chosen already, once for each.
    """
    if quota is None:
        return list(cases)
    counts = Counter(taken)
    within: list[Case] = []
    above: list[Case] = []
    for case in cases:
        (within if counts[case.patient] < quota else above).append(case)
        counts[case.patient] += 1
    return within + above


def _draw(case: Case, seed: int, purpose: str) -> str:
    return hashlib.sha256(f"{purpose}:{seed}:{case.case_id}".encode()).hexdigest()


def entry(case: Case, *, score: float | None = None, is_control: bool = False) -> ManifestCase:
    """A case as a line of the manifest."""
    return ManifestCase(
        at=case.ref,
        patient=case.patient,
        split=case.split,
        image_sha256=case.image_sha256,
        arm="control" if is_control else "strategy",
        score=score,
    )


def check_images(manifest: Manifest) -> None:
    """Refuse an image that trains and is scored as well, whatever its patient is called.

    Raises:
        DataError: names the cases.
    """
    scored = {case.image_sha256: case.at.case_id for case in (*manifest.val, *manifest.test)}
    shared = [
        f"{case.at.case_id} = {scored[case.image_sha256]}"
        for case in manifest.cases
        if case.image_sha256 in scored
    ]
    if shared:
        raise DataError(
            f"round {manifest.round:02d}: the same image trains and is scored: "
            f"{', '.join(shared[:5])}; remove one of each pair and import again"
        )


def expert_set(manifest: Manifest, catalogue: Catalogue) -> AnnotationSet:
    """The annotations that came with the training cases, as one reviewed set."""
    return given_set(manifest, catalogue.expert_annotations)


def _reader(catalogue: Catalogue, config: SelectConfig) -> Read:
    return (
        catalogue.expert_annotations if config.source == "expert" else partial(_pseudo, catalogue)
    )


def _pseudo(catalogue: Catalogue, case_id: str) -> AnnotationSet | None:
    """What another program drew on a case, whether or not an expert drew on it as well."""
    found = catalogue.pseudo_annotations(case_id) or catalogue.expert_annotations(case_id)
    if found is None:
        return None
    drawn = tuple(entry for entry in found.annotations if entry.origin is Origin.PSEUDO)
    return found.with_(annotations=drawn) if drawn else None


def given_set(manifest: Manifest, read: Read) -> AnnotationSet:
    """The masks that training cases came with, as one set.

    Raises:
        StateError: a case has none any more.
    """
    builder = AnnotationSetBuilder(manifest.labels, {"round": str(manifest.round)})
    for case in manifest.cases:
        given = read(case.at.case_id)
        if given is None:
            raise StateError(f"case {case.at.case_id} lost its annotations; import it again")
        for image in given.images:
            if image.ref != case.at:
                continue
            image_id = builder.add_image(
                image.ref,
                (image.height, image.width),
                status="rejected" if image.status == "rejected" else "ok",
                reason=image.reason,
                notes=image.notes,
            )
            for mask in given.of_image(image.id):
                builder.add_mask(
                    image_id,
                    manifest.labels.find(given.label_of(mask)).name,
                    mask.mask,
                    mask.origin,
                    model_id=mask.model_id,
                    score=mask.score,
                    prompt_source=mask.prompt_source,
                    annotator=mask.annotator,
                    attributes=dict(mask.attributes),
                )
    return builder.build()
