"""The automatic head on real angiograms: ARCADE's SYNTAX task, taught without a teacher.

The split is frozen: of the pictures ARCADE calls train, the `HELD_OUT` whose names hash lowest only
choose the cut of the map, the others teach; those it calls val are scored and choose nothing. The
score is that of the shipped form: ONNX graphs, whole pictures, the tree's concept, no prompt.
Settings are conf/arcade/tree.yaml; a killed training goes on from its last checkpoint. `Spent`
counts the processor time of all its parts, steps lost at a kill included.
"""

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from angio.arcade import ArcadeImage, expert_masks, read_arcade
from casebook.documents import Document, read_document, write_document
from casebook.labels import LabelSet, read_labels
from casebook.metrics import cldice, dice
from casebook.protocols import Frame, Prompt
from export.answers import StudentSegmenter
from export.exercises import Exercises, map_labels
from export.onnx import export_student
from export.release import as_segmenter, automatic_maps, calibrated
from export.runtime import load_graphs
from export.settings import DistilConfig, read_distil_config
from export.training import start_student, train_student
from export.windows import whole
from segmenter.fit import Progress

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf" / "arcade" / "tree.yaml"
LABELS = ROOT / "conf" / "labels" / "arcade.yaml"
HELD_OUT = 20
QUICK = ("train.steps=2", "early_steps=1", "early_px=128", "student.whole_px=128")
QUICK_PICTURES = 4
SPENT = "spent.json"


class Spent(Document):
    """What a training has taken so far, kept beside its checkpoints."""

    processor_s: float
    threads: int
    """The most that any part of it had."""


@dataclass(frozen=True)
class Picture:
    """An angiogram and its tree."""

    name: str
    frame: Frame
    tree: np.ndarray


@dataclass(frozen=True)
class TreeFigures:
    """What a training gave."""

    dice: float
    cldice: float
    cut: float
    """Logit above which a pixel belongs to the tree, chosen on the held-out pictures."""
    held_out_dice: float
    minutes: float
    """Of training, by the clock; the steps of earlier parts of a resumed run are counted."""
    core_minutes: float
    """Processor time of the training, all parts."""
    threads: int
    n_params: int
    taught: int
    scored: int


def pictures_of(images: Sequence[ArcadeImage], labels: LabelSet) -> list[Picture]:
    """The pictures that have a tree."""
    tree = labels.of_role("tree")[0].name
    found = []
    for image in images:
        (drawn,) = expert_masks([image], labels).values()
        if tree not in drawn:
            continue
        with Image.open(image.path) as opened:
            pixels = np.array(opened.convert("L"), dtype=np.uint8)
        found.append(Picture(image.path.stem, Frame(pixels), drawn[tree]))
    return found


def split_off(images: Sequence[ArcadeImage]) -> tuple[list[ArcadeImage], list[ArcadeImage]]:
    """Those that teach, and the ones held out: always the same, by the hash of the name."""
    order = sorted(images, key=lambda one: hashlib.sha256(one.path.stem.encode()).hexdigest())
    return order[HELD_OUT:], order[:HELD_OUT]


def exercises_of(pictures: Sequence[Picture], labels: LabelSet, config: DistilConfig) -> Exercises:
    """Whole pictures with their trees as the experts drew them; no squares and no teacher."""
    names = [label for label, _role in map_labels(labels)]
    tree, side = names.index(labels.of_role("tree")[0].name), config.student.whole_px
    squares, truth = [], np.zeros((len(pictures), len(names), side, side), dtype=np.uint8)
    for number, one in enumerate(pictures):
        window = whole(one.frame.hw)
        squares.append(window.cut(one.frame.pixels, side))
        drawn = window.cut_values(one.tree.astype(np.float32), side, 0.0)
        truth[number, tree] = np.clip(np.rint(255.0 * drawn), 0, 255).astype(np.uint8)
    weights = np.zeros((len(pictures), len(names), 2), dtype=np.float32)
    weights[:, tree, 0] = config.weights.expert
    nothing = np.zeros((0, 1, 1), dtype=np.uint8)
    return Exercises(
        nothing,
        nothing,
        nothing,
        np.zeros((0, 2), dtype=np.float32),
        np.stack(squares),
        truth,
        np.zeros_like(truth),
        weights,
    )


def tree_scores(segmenter: StudentSegmenter, shown: Sequence[Picture]) -> tuple[float, float]:
    """Mean Dice and clDice of the tree a student finds; an empty answer scores 0."""
    tree = segmenter.labels.of_role("tree")[0].name
    overlaps, lines = [], []
    for one in shown:
        found = segmenter.predict(segmenter.embed(one.frame), Prompt(concept=tree))
        bitmap = found[0].bitmap if found else np.zeros(one.frame.hw, dtype=bool)
        overlaps.append(dice(bitmap, one.tree))
        lines.append(cldice(bitmap, one.tree))
    return float(np.mean(overlaps)), float(np.mean(lines))


def spent_before(directory: Path) -> Spent:
    """What earlier parts of a training took; nothing where none was begun."""
    path = directory / SPENT
    return read_document(path, Spent) if path.is_file() else Spent(processor_s=0.0, threads=0)


def train_and_score(
    root: Path, directory: Path, *, quick: bool, overrides: Sequence[str] = ()
) -> TreeFigures:
    """Teach a student the trees of ARCADE and score it on the pictures it never saw.

    Args:
        root: ARCADE's folder.
        directory: Of the training's checkpoints; a finished training found there is not repeated.
        quick: Two steps on a few pictures, to see that it runs.
        overrides: Of the settings, as `--set` gives them.

    Raises:
        DataError: the folder is not ARCADE's.
        ConfigError: the directory holds a training with other settings.
    """
    config = read_distil_config(CONFIG, (*(QUICK if quick else ()), *overrides))
    labels = read_labels(LABELS)
    images = read_arcade(root)
    to_teach, to_cut = split_off([image for image in images if image.split == "train"])
    to_score = [image for image in images if image.split == "val"]
    count = QUICK_PICTURES if quick else len(images)
    taught, held, val = (pictures_of(part[:count], labels) for part in (to_teach, to_cut, to_score))
    student = start_student(config, labels)
    before, started = spent_before(directory), time.process_time()
    threads = max(before.threads, torch.get_num_threads())

    def tell(at: Progress) -> None:
        shown = " ".join(f"{name} {value:.3f}" for name, value in at.figures.items())
        print(f"  step {at.step} of {at.steps}, {at.seconds:.0f} s: {shown}", flush=True)
        taken = before.processor_s + time.process_time() - started
        write_document(directory / SPENT, Spent(processor_s=taken, threads=threads))

    fitted = train_student(student, exercises_of(taught, labels, config), config, directory, tell)
    spent = spent_before(directory)
    maps = calibrated(student, exercises_of(held, labels, config), automatic_maps(labels))
    with tempfile.TemporaryDirectory() as place:
        export_student(student, Path(place))
        segmenter = replace(
            as_segmenter(student, "tree", labels), graphs=load_graphs(Path(place)), maps=maps
        )
        overlap, line = tree_scores(segmenter, val)
        held_out_dice, _ = tree_scores(segmenter, held)
    return TreeFigures(
        dice=overlap,
        cldice=line,
        cut=next(one.threshold for one in maps if one.role == "tree"),
        held_out_dice=held_out_dice,
        minutes=fitted.seconds / 60,
        core_minutes=spent.processor_s / 60,
        threads=spent.threads,
        n_params=student.n_params,
        taught=len(taught),
        scored=len(val),
    )
