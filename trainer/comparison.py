"""Two models on the same frozen cases, pair by pair, from the scores that were kept of them.

Knows no model: every candidate, incumbent, control and specialist was scored by its own step.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from casebook.documents import Document, read_document
from casebook.errors import DataError, StateError
from casebook.home import Home
from casebook.metrics import bootstrap_gain
from trainer.scores import Figure, Mean, ModelScores, SplitScores, mean_of

NAMED = "named"
"""Share of segments called by their own name."""
_DIGEST_DIGITS = 12


class Contrast(Document):
    """One figure of two models, means over the cases that have it from both."""

    split: Literal["val", "test"]
    figure: str
    vessel: str | None = None
    """Only this vessel's cases, where one is named."""
    model: Mean
    other: Mean
    gain: Mean
    """Model minus other, paired by case, with its 95 % bootstrap interval."""

    @property
    def verdict(self) -> str:
        """Whether the interval lies clear of 0."""
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else "not told apart"


class Comparison(Document):
    """Two models on the same frozen cases."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    created: datetime
    model: str
    other: str
    cases_sha256: str
    contrasts: tuple[Contrast, ...]


def compare(home: Home, model: str, other_home: Home, other: str) -> Comparison:
    """Compare two models by their kept scores; they may lie in different workspaces.

    Raises:
        StateError: a model was never scored on frozen cases.
        DataError: the two were scored on different cases or another truth, or are one and the same.
    """
    if (home.root, model) == (other_home.root, other):
        raise DataError(f"{model} cannot be compared with itself; name two models")
    ours, theirs = kept_scores(home, model), kept_scores(other_home, other)
    shared = sorted(ours.keys() & theirs.keys(), key=lambda digest: ours[digest][0], reverse=True)
    if not shared:
        raise DataError(
            f"{model} and {other} were scored on different cases or another truth; only the same "
            "frozen cases compare. For two workspaces import once and copy the workspace before "
            "training in both: pseudonyms are of one key"
        )
    first, second = ours[shared[0]][1], theirs[shared[0]][1]
    return Comparison(
        created=datetime.now(UTC),
        model=model,
        other=other,
        cases_sha256=first.cases_sha256,
        contrasts=(
            *_contrasts("val", first.val, second.val),
            *_contrasts("test", first.test, second.test),
        ),
    )


def kept_scores(home: Home, model_id: str) -> dict[str, tuple[float, ModelScores]]:
    """What was kept of a model by the digest of the cases, with the time it was written.

    Raises:
        StateError: nothing was.
    """
    found: dict[str, tuple[float, ModelScores]] = {}
    for path in (home.root / "evaluations").glob("*.json"):
        if _model_of(path) == model_id:
            scores = read_document(path, ModelScores)
            found[scores.cases_sha256] = (path.stat().st_mtime, scores)
    if not found:
        known = sorted({_model_of(path) for path in (home.root / "evaluations").glob("*.json")})
        raise StateError(
            f"{home.root}: {model_id} was never scored on frozen cases; scored are "
            f"{', '.join(known) or 'none'}. `make train ROUND=…` scores a round's candidate"
        )
    return found


def _model_of(path: Path) -> str:
    """`round-01-1a2b3c4d` of `round-01-1a2b3c4d-f15abdefaf0f.json`."""
    return path.stem[: -_DIGEST_DIGITS - 1]


def _contrasts(
    split: Literal["val", "test"], ours: SplitScores, theirs: SplitScores
) -> list[Contrast]:
    """Every figure both have, then the IoU with box by vessel."""
    found = []
    for figure in (*get_args(Figure), NAMED):
        if "frangi" in figure:  # no model's
            continue
        contrast = _contrast(split, figure, _values(ours, figure), _values(theirs, figure))
        found += [contrast] if contrast else []
    vessels = {case.case_id: case.vessel for case in ours.cases}
    for vessel in sorted({name for name in vessels.values() if name}):
        own = {case: value for case, value in _values(ours, "iou_box").items()
               if vessels[case] == vessel}  # fmt: skip
        contrast = _contrast(split, "iou_box", own, _values(theirs, "iou_box"), vessel)
        found += [contrast] if contrast else []
    return found


def _contrast(
    split: Literal["val", "test"],
    figure: str,
    ours: dict[str, float],
    theirs: dict[str, float],
    vessel: str | None = None,
) -> Contrast | None:
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    first, second = [ours[case] for case in both], [theirs[case] for case in both]
    gain = bootstrap_gain(first, second)
    return Contrast(
        split=split,
        figure=figure,
        vessel=vessel,
        model=mean_of(first),
        other=mean_of(second),
        gain=Mean(mean=gain.mean, low=gain.low, high=gain.high, n=gain.n),
    )


def _values(scores: SplitScores, figure: str) -> dict[str, float]:
    """A figure by case, of the cases that have it."""
    found: dict[str, float] = {}
    for case in scores.cases:
        if figure == NAMED:
            said = [one for one in case.segments if one.named is not None]
            hits = [float(one.named.label == one.label) for one in said if one.named is not None]
            value = sum(hits) / len(hits) if hits else None
        else:
            value = getattr(case, figure)
        if value is not None:
            found[case.case_id] = value
    return found
