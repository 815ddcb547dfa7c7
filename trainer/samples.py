"""Training samples from the annotations of the rounds so far.

Rejected frames never train, nor does a mask nobody reviewed. Knows no model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool

from angio import qca
from angio.evaluation import truth_of
from casebook import masks
from casebook.annotations import AnnotationSet, CocoAnnotation, CocoImage, read_annotations
from casebook.cases import Case, Split
from casebook.catalogue import Catalogue
from casebook.documents import sha256_of_file
from casebook.errors import DataError, QcaError, StateError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.protocols import Frame
from casebook.rounds import Manifest, RoundFolder
from segmenter.heads import Targets
from segmenter.samples import Sample, TrainMask
from trainer.rounds_config import OriginWeights

_TRAINS = {"ok", "corrected"}


@dataclass
class TrainingSet:
    """What a round trains on, counted."""

    samples: list[Sample] = field(default_factory=list)
    rejected: int = 0
    masks_by_origin: dict[str, int] = field(default_factory=dict)


def annotation_digests(home: Home, rounds: Iterable[int]) -> tuple[str, ...]:
    """Digest of each round's annotations.

    Raises:
        StateError: a round has none.
    """
    return tuple(
        sha256_of_file(
            RoundFolder(home, number).need(
                "annotations.coco.json", f"Run `cvatsync pull --round {number}`."
            )
        )
        for number in rounds
    )


def training_set(
    home: Home,
    catalogue: Catalogue,
    rounds: Sequence[int],
    labels: LabelSet,
    weights: OriginWeights,
    *,
    measured: bool = False,
    vessel: str | None = None,
    replay: float = 1.0,
    lesion_in_text: bool = False,
) -> TrainingSet:
    """All usable annotations of some rounds.

    Args:
        measured: Measure every segment, for a model whose heads learn it.
        vessel: Only cases of this vessel.
        replay: How much the masks of all rounds but the last count; 0 leaves them out.
        lesion_in_text: Teach the lesion of an analysed segment by both names too.

    Raises:
        DataError: a case is not a training case, or a label is unknown.
    """
    found = TrainingSet()
    for number in rounds:
        share = 1.0 if number == max(rounds) else replay
        annotations = read_annotations(RoundFolder(home, number).file("annotations.coco.json"))
        for image in annotations.images:
            case = catalogue.get(image.case_id)
            if case.split is not Split.TRAIN:
                raise DataError(
                    f"round {number:02d}: case {case.case_id} is of split {case.split.value} and "
                    "must never train; remove it from annotations.coco.json"
                )
            if vessel is not None and case.vessel != vessel:
                continue
            if image.status == "rejected":
                found.rejected += 1
            elif image.status in _TRAINS:
                _add(found, annotations, image, case, catalogue, labels, weights, measured, share)
                if lesion_in_text and found.samples and case.segment is not None:
                    found.samples[-1] = _with_both_names(
                        found.samples[-1], image, case.segment, labels
                    )
    if not found.samples:
        raise DataError(
            f"rounds {', '.join(map(str, rounds))} hold no reviewed mask to train on "
            f"({found.rejected} frames are rejected); annotate and pull again"
        )
    return found


def undrawn(data: TrainingSet, labels: LabelSet) -> tuple[str, ...]:
    """Labels of parts and objects that no mask teaches."""
    taught = {mask.label for sample in data.samples for mask in sample.masks}
    wanted = (*labels.of_role("segment"), *labels.of_role("object"))
    return tuple(label.name for label in wanted if label.name not in taught)


def validation_set(
    manifest: Manifest, catalogue: Catalogue, vessel: str | None = None
) -> tuple[Sample, ...]:
    """The frozen validation cases with the segments experts drew, by which a training may stop.

    Args:
        vessel: Only cases of this vessel.

    Raises:
        StateError: a case lost its annotations.
    """
    found = []
    for line in manifest.val:
        case = catalogue.get(line.at.case_id)
        if vessel is not None and case.vessel != vessel:
            continue
        given = catalogue.expert_annotations(case.case_id)
        if given is None:
            raise StateError(f"case {case.case_id} lost its expert annotations; import it again")
        drawn = truth_of(given, manifest.labels).segments
        shown = tuple(TrainMask(label, bitmap) for label, bitmap in drawn)
        found.append(Sample(catalogue.frame(case.ref), shown, name=line.at.file_name))
    return tuple(found)


def _add(
    found: TrainingSet,
    annotations: AnnotationSet,
    image: CocoImage,
    case: Case,
    catalogue: Catalogue,
    labels: LabelSet,
    weights: OriginWeights,
    measured: bool,
    share: float,
) -> None:
    frame = catalogue.frame(image.ref)
    drawn: list[tuple[Label, TrainMask]] = []
    for entry in annotations.of_image(image.id):
        weight = share * weights.of(entry.origin)
        if weight == 0:
            continue
        label = _label_of(annotations, entry, image, labels)
        bitmap = masks.decode(entry.mask)
        targets = _targets(label, frame, bitmap) if measured else Targets()
        drawn.append((label, TrainMask(label.name, bitmap, weight, label.role != "tree", targets)))
        origin = entry.origin.value
        found.masks_by_origin[origin] = found.masks_by_origin.get(origin, 0) + 1
    if drawn:
        concepts = _implied(drawn, case, labels)
        shown = tuple(mask for _, mask in drawn) + concepts
        absent = _absent(drawn, case, labels)
        similar = _similar(drawn, absent, labels)
        found.samples.append(Sample(frame, shown, absent, image.file_name, similar))


def _label_of(
    annotations: AnnotationSet, entry: CocoAnnotation, image: CocoImage, labels: LabelSet
) -> Label:
    """The label of a mask, as the round knows it."""
    try:
        return labels.find(annotations.label_of(entry))
    except DataError as problem:
        number = annotations.info.get("round", "?").zfill(2)
        raise DataError(
            f"round {number}, frame {image.file_name}: {problem}. Rename it in CVAT and pull "
            "again with --force, or train with the label set it was drawn by"
        ) from None


def _targets(label: Label, frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> Targets:
    """What the heads learn of a segment: its code, and its measurements where there are any."""
    if label.role != "segment":
        return Targets()
    try:
        lesion = qca.measure(frame.pixels, bitmap)
    except QcaError:
        return Targets(code=label.code)
    return Targets(label.code, lesion.stenosis_pct, lesion.mld_px, lesion.rvd_px)


def _implied(
    drawn: Sequence[tuple[Label, TrainMask]], case: Case, labels: LabelSet
) -> tuple[TrainMask, ...]:
    """Concepts the drawn masks stand for: the analysed segment, and the tree they make up."""
    implied = []
    roles = {label.role for label, _ in drawn}
    segments = [mask for label, mask in drawn if label.role == "segment"]
    lesions, trees = labels.of_role("lesion"), labels.of_role("tree")
    if case.segment is not None and lesions and "lesion" not in roles:
        analysed = [mask for mask in segments if mask.label == labels.find(case.segment).name]
        implied += [
            TrainMask(lesions[0].name, mask.bitmap, mask.weight, prompted=False)
            for mask in analysed
        ]
    if case.segment is None and trees and segments and "tree" not in roles:
        union = np.logical_or.reduce([mask.bitmap for mask in segments])
        weight = min(mask.weight for mask in segments)
        implied.append(TrainMask(trees[0].name, union, weight, prompted=False))
    return tuple(implied)


def _with_both_names(sample: Sample, image: CocoImage, segment: str, labels: LabelSet) -> Sample:
    """The sample with each lesion under its segment's name as well, if it is of this image."""
    if sample.name != image.file_name:  # nothing of the image is learnt from
        return sample
    worded = {one.name: labels.lesion_of(segment, one) for one in labels.of_role("lesion")}
    more = [
        replace(mask, label=worded[mask.label], prompted=False)
        for mask in sample.masks
        if mask.label in worded
    ]
    return replace(sample, masks=(*sample.masks, *more))


def _absent(
    drawn: Sequence[tuple[Label, TrainMask]], case: Case, labels: LabelSet
) -> tuple[str, ...]:
    """Labels known to be absent: none where only one analysed segment was ever drawn."""
    if case.segment is not None:
        return ()
    present = {label.name for label, _ in drawn}
    wanted = [*labels.of_role("segment"), *labels.of_role("object")]
    return tuple(label.name for label in wanted if label.name not in present)


def _similar(
    drawn: Sequence[tuple[Label, TrainMask]], absent: tuple[str, ...], labels: LabelSet
) -> tuple[str, ...]:
    """Labels known to be absent that are easily taken for one that was drawn."""
    near = {labels.find(name).name for label, _ in drawn for name in label.confusable}
    return tuple(name for name in absent if name in near)
