"""What the simulated expert sees: the true masks of a frame, from the phantoms or from ARCADE.

Nobody else reads these: cases to be annotated enter the workspace without any annotation.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from angio.arcade import expert_masks, read_arcade
from angio.deident import read_relink
from angio.phantoms.truth import CaseTruth, read_truth
from casebook.cases import FrameRef
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import LabelSet
from demo.expert import Truth


def read_bitmap(path: Path) -> Bool[np.ndarray, "h w"]:
    """A mask file, 0 or 255."""
    with Image.open(path) as picture:
        return np.array(picture.convert("L")) > 127


def phantom_truth(study: Path, home: Home, labels: LabelSet) -> Truth:
    """The analysed segment of every phantom frame, under its CASS name.

    Case ids are pseudonymous; the workspace's own re-link table says which row each was.
    """
    rows = {case.row_id: case for case in read_truth(study).cases}
    names = {label.code: label.name for label in labels.of_role("segment")}
    links = read_relink(home)

    def of(ref: FrameRef) -> dict[str, Bool[np.ndarray, "h w"]]:
        link = links.get(ref.case_id)
        if link is None or link.source_row not in rows:
            raise DataError(f"case {ref.case_id} is no phantom of {study.name}; import it again")
        case = rows[link.source_row]
        return {names[case.cass]: read_bitmap(study / case.segment)}

    return of


def unseen_truth(study: Path) -> dict[str, CaseTruth]:
    """The truth of the files kept for the deployment machine, by file name."""
    cases = read_truth(study).cases
    return {Path(case.dicom).name: case for case in cases if case.split == "unseen"}


def arcade_truth(root: Path, labels: LabelSet) -> Truth:
    """The segments ARCADE's annotators drew; the whole tree is their union and is left out."""
    known = expert_masks(read_arcade(root), labels)
    segments = {label.name for label in labels.of_role("segment")}

    def of(ref: FrameRef) -> dict[str, Bool[np.ndarray, "h w"]]:
        if ref.case_id not in known:
            raise DataError(f"case {ref.case_id} is not in ARCADE; import it again")
        drawn = known[ref.case_id]
        return {name: bitmap for name, bitmap in drawn.items() if name in segments}

    return of
