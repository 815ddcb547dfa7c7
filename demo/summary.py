"""The figures the walk ends with: summary.json and the table, read from what the rounds left."""

from pathlib import Path
from statistics import mean

from pydantic import Field

from angio.phantoms.truth import CaseTruth
from casebook.documents import Document, read_document, write_document
from casebook.home import Home
from export.bundle import MANIFEST, Bundle
from export.outputs import InferReport
from trainer.overview import Overview, read_overview
from trainer.summary import RoundReport

SUMMARY = "summary.json"


class RoundRow(Document):
    """One round; scores are means over the frozen test cases."""

    round: int
    cases: int
    iou_box: float
    """Lesion segment prompted by its own box."""
    iou_auto: float | None
    """No prompt taken from the truth."""
    dice: float
    cldice: float
    tree_dice: float | None
    promoted: bool
    accepted: int = 0
    refined: int = 0
    """Proposals corrected, and masks drawn where there was no proposal."""
    rejected: int = 0
    expert_seconds_simulated: float = 0.0
    hours_saved: float = 0.0


class ControlRow(Document):
    """The same number of steps on round 1's data only."""

    iou_box: float
    gain: float
    """Per test case, the rounds' model minus the control."""
    gain_ci95: tuple[float, float]


class StudentRow(Document):
    """The student beside its teacher."""

    iou_ratio_vs_teacher: float | None
    parity_max_abs: float
    mask_iou_vs_torch: float
    n_params: int
    teacher_n_params: int
    released: bool


class QcaRow(Document):
    """Measurements on unseen files against the phantoms' truth; mean absolute errors."""

    files: int
    measured: int
    """Files whose prompted vessel could be measured."""
    mld_error_mm: float | None
    ds_error_points: float | None


class Summary(Document):
    """What `summary.json` holds."""

    rounds: tuple[RoundRow, ...]
    base_iou_box: float
    """Before any training."""
    control: ControlRow | None = None
    frangi_dice: float | None = None
    """A Frangi filter inside the same boxes."""
    tree_frangi_dice: float | None = None
    student: StudentRow | None = None
    qca: QcaRow | None = None
    wall_s: float = Field(ge=0)
    """Time all runs of the walk took together."""
    peak_rss_mb: float = Field(ge=0)


class Clock(Document):
    """Time and memory of earlier, interrupted runs of the same walk."""

    wall_s: float = 0.0
    peak_rss_mb: float = 0.0


def round_row(report: RoundReport) -> RoundRow:
    """One round of the table."""
    test, found = report.test, report.corrections
    tree = test.get("tree_dice")
    auto = test.get("iou_auto")
    return RoundRow(
        round=report.round,
        cases=report.cases_new,
        iou_box=test["iou_box"].mean,
        iou_auto=auto.mean if auto else None,
        dice=test["dice"].mean,
        cldice=test["cldice"].mean,
        tree_dice=tree.mean if tree else None,
        promoted=report.promoted,
        accepted=found.accepted if found else 0,
        refined=found.refined + found.added if found else 0,
        rejected=found.rejected_frames if found else 0,
        expert_seconds_simulated=report.effort.seconds if report.effort else 0.0,
        hours_saved=report.effort.hours_saved if report.effort else 0.0,
    )


def student_row(folder: Path, *, released: bool) -> StudentRow:
    """What the gates measured of a bundle."""
    gates = read_document(folder / MANIFEST, Bundle).gates
    return StudentRow(
        iou_ratio_vs_teacher=gates.iou_ratio,
        parity_max_abs=gates.max_abs,
        mask_iou_vs_torch=gates.mask_iou,
        n_params=gates.n_params,
        teacher_n_params=gates.teacher_n_params,
        released=released,
    )


def measured(folder: Path, truth: dict[str, CaseTruth]) -> list[tuple[CaseTruth, float, float]]:
    """MLD in mm and %DS of the prompted vessel in each file, beside the truth."""
    found = []
    for path in sorted(folder.glob("*/qca.json")):
        for result in read_document(path, InferReport).results:
            known = truth.get(result.file)
            for vessel in result.vessels[:1]:
                lesion = vessel.lesion
                if known is not None and lesion is not None and lesion.mld_mm is not None:
                    found.append((known, lesion.mld_mm, lesion.stenosis_pct))
    return found


def qca_row(rows: list[tuple[CaseTruth, float, float]], files: int) -> QcaRow:
    """Mean absolute errors over the files that could be measured."""
    if not rows:
        return QcaRow(files=files, measured=0, mld_error_mm=None, ds_error_points=None)
    return QcaRow(
        files=files,
        measured=len(rows),
        mld_error_mm=mean(abs(mld - known.lesion.mld_mm) for known, mld, _ in rows),
        ds_error_points=mean(abs(ds - known.lesion.stenosis_pct) for known, _, ds in rows),
    )


def summarise(
    home: Home, clock: Clock, student: StudentRow | None, qca: QcaRow | None
) -> tuple[Summary, Overview]:
    """Write summary.json and return it with the overview it was read from."""
    overview = read_overview(home)
    control = overview.control
    last = overview.rounds[-1]
    frangi, tree_frangi = last.test.get("frangi_dice"), last.test.get("tree_frangi_dice")
    summary = Summary(
        rounds=tuple(round_row(report) for report in overview.rounds),
        base_iou_box=overview.rounds[0].test_incumbent["iou_box"].mean,
        control=ControlRow(
            iou_box=control.control.mean,
            gain=control.gain.mean,
            gain_ci95=(control.gain.low, control.gain.high),
        )
        if control
        else None,
        frangi_dice=frangi.mean if frangi else None,
        tree_frangi_dice=tree_frangi.mean if tree_frangi else None,
        student=student,
        qca=qca,
        wall_s=clock.wall_s,
        peak_rss_mb=clock.peak_rss_mb,
    )
    write_document(home.root / SUMMARY, summary)
    return summary, overview


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def table(summary: Summary) -> str:
    """The figures as text; seconds of the expert are simulated."""
    lines = [
        "round  cases  IoU box  IoU auto  Dice   clDice  tree Dice  accepted  refined  rejected"
        "  expert s*  hours saved*  promoted",
        f"base       –  {summary.base_iou_box:7.3f}",
    ]
    lines += [
        f"{row.round:5d}  {row.cases:5d}  {row.iou_box:7.3f}  {_number(row.iou_auto):>8}  "
        f"{row.dice:5.3f}  {row.cldice:6.3f}  {_number(row.tree_dice):>9}  {row.accepted:8d}  "
        f"{row.refined:7d}  {row.rejected:8d}  {row.expert_seconds_simulated:9.0f}  "
        f"{row.hours_saved:12.2f}  {'yes' if row.promoted else 'no'}"
        for row in summary.rounds
    ]
    lines.append(
        "scores: means over the frozen test cases; * simulated expert, against 5 min a case"
    )
    if summary.control is not None:
        low, high = summary.control.gain_ci95
        lines.append(
            f"control (same steps, round 1's data only): IoU box {summary.control.iou_box:.3f}; "
            f"gain of the rounds {summary.control.gain:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    lines.append(
        f"Frangi filter: Dice {_number(summary.frangi_dice)} in the same boxes, "
        f"{_number(summary.tree_frangi_dice)} on the whole tree"
    )
    if summary.student is not None:
        one = summary.student
        lines.append(
            f"student: {one.n_params / 1e6:.2f} M parameters, teacher "
            f"{one.teacher_n_params / 1e6:.2f} M; {_number(one.iou_ratio_vs_teacher)} of its IoU; "
            f"torch against ONNX {one.parity_max_abs:.1e}, masks {one.mask_iou_vs_torch:.4f}; "
            f"{'released' if one.released else 'NOT released'}"
        )
    if summary.qca is not None:
        lines.append(
            f"angioinfer: {summary.qca.measured} of {summary.qca.files} unseen files measured, "
            f"mean |error| MLD "
            f"{_number(summary.qca.mld_error_mm, '.2f')} mm, %DS "
            f"{_number(summary.qca.ds_error_points, '.1f')} points"
        )
    lines.append(f"time {summary.wall_s:.0f} s, peak memory {summary.peak_rss_mb:.0f} MB")
    return "\n".join(lines)
