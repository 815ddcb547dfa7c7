"""A data set for the trainer that ships with SAM 3: train and val as COCO, and its configuration.

Its loader (sam3/train/data/coco_json_loaders.py, COCO_FROM_JSON) asks every image for every
category and takes one without a mask as a negative. That holds for labels similar to those drawn
and for labels known to be absent; the others, which nobody looked for, get an ignored annotation
of no extent, which its own FilterZeroBoxQueries takes out. Knows no training.
"""

import json
from dataclasses import replace
from pathlib import Path

from angio.coco_files import DatasetManifest, seal, whole_folder, write_split
from angio.datasets import DrawnFrame, Selection, frames
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.documents import write_bytes
from casebook.errors import DataError
from casebook.home import Home

CONFIG = Path(__file__).with_name("sam3_native.yaml")
SPLITS = (Split.TRAIN, Split.VAL)
"""Test cases are for the last word only; no trainer gets them."""


def write_sam3(home: Home, folder: Path, wanted: Selection) -> DatasetManifest:
    """Write train|val/images, annotations.json and sam3.yaml.

    Raises:
        ConfigError: the folder is there already.
        DataError: a split has no frame; or as `angio.datasets.frames`.
    """
    catalogue, asked = Catalogue(home), wanted.asked
    names = [label.name for label in asked]

    def unlooked(frame: DrawnFrame) -> list[str]:
        known = {one.label.name for one in frame.drawn} | {*frame.similar, *frame.absent}
        return [name for name in names if name not in known]

    with whole_folder(folder) as place:
        summaries = {}
        for split in SPLITS:
            # A round annotates training cases; the frozen validation cases are the catalogue's.
            number = wanted.round if split is Split.TRAIN else None
            drawn = frames(home, replace(wanted, splits=(split,), round=number))
            info = {"description": f"angioloop, phase {wanted.phase.value}, split {split.value}"}
            summary = write_split(place / split.value, drawn, asked, catalogue, info, unlooked)
            if not summary.images:
                raise DataError(
                    f"no {split.value} frame has a mask for phase {wanted.phase.value}; SAM 3's "
                    "trainer needs train and val. Import or annotate some, or leave out --round"
                )
            summaries[split.value] = summary
        text = CONFIG.read_text(encoding="utf-8")
        root = json.dumps(str(folder.resolve()))
        write_bytes(place / "sam3.yaml", text.replace("DATA_ROOT", root).encode())
        return seal(place, wanted.phase.value, wanted.round, summaries)
