"""A round's report: report.json, and one self-contained page with plots and overlays."""

from collections.abc import Sequence

from angio.agreement import bland_altman_svg
from angio.evaluation import CaseEvaluation
from casebook.documents import read_document, write_bytes, write_document
from casebook.metrics import iou
from casebook.rounds import RoundFolder
from trainer.breakdown import WAYS, measure_pairs
from trainer.charts import cases_chart, groups_chart, loss_chart
from trainer.decide import read_decision
from trainer.evaluate import read_evaluation
from trainer.overlays import Pair, colours, draw, pairs_of
from trainer.overview import GALLERY, Gallery, Key, Picture, write_overview
from trainer.page import data_uri, render
from trainer.results import Candidate
from trainer.scores import SplitScores
from trainer.summary import RoundReport, summarise
from trainer.teachers import load_teacher_of
from trainer.work import Work

FAILED_IOU = 0.5
"""A test case below is shown among the failures …"""
FAILURES_SHOWN = 6
"""… of which so many are shown, the worst."""


def report(work: Work) -> str:
    """Write the round's report, once, and the one over all rounds."""
    folder = work.folder
    if not folder.has("report.json"):
        decision = read_decision(folder)
        candidate = read_candidate(folder)
        found = summarise(folder, candidate, read_evaluation(folder), decision)
        gallery = Gallery(round=folder.number, pictures=_gallery(work, found))
        write_document(folder.file(GALLERY), gallery)
        page = render(
            "report.html.j2",
            report=found,
            charts=_charts(work, found),
            gallery=gallery.pictures,
            ways=WAYS,
        )
        write_bytes(folder.file("report.html"), page.encode())
        write_document(folder.file("report.json"), found)
    write_overview(folder.home)
    return str(folder.file("report.html"))


def read_candidate(folder: RoundFolder) -> Candidate:
    """The round's candidate.

    Raises:
        StateError: there is none yet.
    """
    how = f"Run `make train ROUND={folder.number}`."
    return read_document(folder.need("candidate.json", how), Candidate)


def _charts(work: Work, found: RoundReport) -> dict[str, str]:
    charts = {"cases": cases_chart(found)}
    if found.vessels or found.labels:
        charts["groups"] = groups_chart(found)
    curve = {
        event.values["step"]: event.values["loss"]
        for event in work.folder.events()
        if event.step == "train" and {"step", "loss"} <= set(event.values)
    }
    if len(curve) > 1:
        charts["loss"] = loss_chart(sorted(curve), [curve[step] for step in sorted(curve)])
    pairs = measure_pairs(SplitScores(cases=found.cases))
    for table in found.qca.tables:
        ours, theirs = zip(*pairs[table.name, table.unit], strict=True)
        title = f"{table.name}, {table.unit}: model's masks and experts'"
        charts[f"qca {table.name} {table.unit}"] = bland_altman_svg(
            table, ours, theirs, title=title
        )
    return charts


def _gallery(work: Work, found: RoundReport) -> tuple[Picture, ...]:
    """Best, median and worst test case, and those that failed."""
    cases = found.cases
    chosen: dict[str, tuple[str, CaseEvaluation]] = {}
    for title, index in (("worst", -1), ("median", len(cases) // 2), ("best", 0)):
        chosen[cases[index].case_id] = (title, cases[index])
    teacher = load_teacher_of(work, found.candidate)
    order = ("best", "median", "worst", "failed")
    failed = [case for case in reversed(cases) if case.iou_box < FAILED_IOU]
    for case in failed[:FAILURES_SHOWN]:
        chosen.setdefault(case.case_id, ("failed", case))
    pictures = []
    for title, case in sorted(chosen.values(), key=lambda pair: order.index(pair[0])):
        pixels, pairs = pairs_of(teacher, work.catalogue, case.case_id, found_labels(work))
        note = " · ".join(part for part in (case.case_id, case.vessel, case.label) if part)
        pictures.append(
            Picture(
                title=title,
                uri=data_uri(draw(pixels, pairs)),
                iou=case.iou_box,
                note=note,
                keys=_keys(pairs),
            )
        )
    return tuple(pictures)


def _keys(pairs: Sequence[Pair]) -> tuple[Key, ...]:
    """What each number and colour of an overlay stands for."""
    if len(pairs) < 2:
        return ()
    return tuple(
        Key(
            label=pair.label,
            colour="#{:02x}{:02x}{:02x}".format(*rgb),
            iou=iou(pair.model, pair.expert),
        )
        for pair, (rgb, _) in zip(pairs, colours(len(pairs)), strict=True)
    )


def found_labels(work: Work) -> tuple[str, ...]:
    """Names of the labels scored on their own: segments and objects, not the whole tree."""
    labels = work.folder.manifest().labels
    return tuple(label.name for label in labels.masks if label.role in {"segment", "object"})
