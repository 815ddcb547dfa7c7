"""Folders of pictures: masks in three layouts, splits by place, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from angio.image_folder import import_images
from angio.intake import ImportReport
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.masks import decode

LABELS = LabelSet(
    name="tools", labels=(Label(name="heart pump", code=4), Label(name="lead", code=300))
)
HW = (40, 60)


def index() -> np.ndarray:
    values = np.zeros(HW, dtype=np.uint16)
    values[5:10, 5:20] = 4
    values[20:30, 30:40] = 300
    return values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "masks").mkdir()
    ramp = np.linspace(60, 120, HW[0] * HW[1]).reshape(HW).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "set" / "images" / "a.png")
    return tmp_path / "set"


def taken(
    folder: Path, labels: LabelSet = LABELS, **options: Any
) -> tuple[ImportReport, Catalogue]:
    home = Home(folder.parent / "home")
    return import_images(folder, home, labels, **options), Catalogue(home)


def drawn(catalogue: Catalogue) -> dict[str, np.ndarray]:
    found = catalogue.expert_annotations(next(catalogue.cases()).case_id)
    return {found.label_of(o): decode(o.mask) for o in found.annotations} if found else {}


def test_masks_of_codes_and_masks_of_one_label_are_the_same(folder: Path) -> None:
    np.save(folder / "masks" / "a.npy", index())
    report, catalogue = taken(folder)
    assert (report.imported, report.annotated, report.problems) == (1, 1, ())
    as_index = drawn(catalogue)
    (folder / "masks" / "a.npy").unlink()
    (folder / "masks" / "a").mkdir()
    Image.fromarray((index() == 4).astype(np.uint8) * 255).save(
        folder / "masks" / "a" / "Heart_Pump.png"
    )
    (folder / "masks" / "lead").mkdir()
    Image.fromarray(index() == 300).save(folder / "masks" / "lead" / "a.png")
    report, catalogue = taken(folder)
    assert report.unchanged == 1
    assert set(as_index) == {"heart pump", "lead"}
    np.testing.assert_array_equal(as_index["lead"], index() == 300)


def test_palettes_keep_their_numbers_not_their_colours(folder: Path) -> None:
    picture = Image.fromarray((index() == 4).astype(np.uint8) * 4)
    picture.putpalette([255, 255, 255] * 4 + [0, 0, 0] + [9, 9, 9] * 251)
    picture.save(folder / "masks" / "a.png")
    assert picture.mode == "P"
    _, catalogue = taken(folder)
    np.testing.assert_array_equal(drawn(catalogue)["heart pump"], index() == 4)


def test_the_only_label_may_be_255(folder: Path) -> None:
    Image.fromarray((index() > 0).astype(np.uint8) * 255).save(folder / "masks" / "a.png")
    report, _ = taken(folder)
    assert "codes of no label" in report.problems[0].message
    _, catalogue = taken(folder, LabelSet(name="one", labels=(Label(name="lead"),)))
    np.testing.assert_array_equal(drawn(catalogue)["lead"], index() > 0)


def test_splits_come_from_folders(folder: Path) -> None:
    for split in ("train", "Valid", "test"):
        (folder / "images" / split).mkdir()
        (folder / "images" / "a.png").rename(folder / "images" / split / "a.png")
        pixels = np.asarray(Image.open(folder / "images" / split / "a.png")) + 1
        Image.fromarray(pixels).save(folder / "images" / "a.png")
    report, _ = taken(folder)
    assert report.splits["train"] + report.splits["val"] + report.splits["test"] == 4
    assert "by picture, not by patient" in report.notes[0]
    report, _ = taken(folder, split=Split.TEST, dry_run=True)
    assert report.splits == {"test": 4}


def test_deep_grey_is_rendered_and_its_bits_kept(folder: Path) -> None:
    deep = np.linspace(1000, 3000, HW[0] * HW[1]).reshape(HW).astype(np.uint16)
    Image.fromarray(deep).save(folder / "images" / "a.png")
    _, catalogue = taken(folder)
    case = next(catalogue.cases())
    np.testing.assert_array_equal(np.asarray(Image.open(catalogue.stored_path(case.ref))), deep)
    pixels = catalogue.frame(case.ref).pixels
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": index().astype(np.uint8)[:, :30]}, "picture's size"),
        ({"a.png": (index() > 0).astype(np.uint8) * 7}, "codes of no label"),
        ({"a.png": np.dstack([index().astype(np.uint8)] * 2 + [index().astype(np.uint8) * 2])},
         "in colours"),
        ({"a.npy": index() * 0.5 + 0.25}, "fractions"),
        ({"a.npy": index().astype(np.int32) - 1}, "outside 0"),
        ({"a.npy": np.zeros((2, 40, 60))}, "rows × columns"),
        ({"a.png": index().astype(np.uint8), "a.npy": index()}, "2 forms"),
        ({"a/cat.png": index().astype(np.uint8)}, "'cat' is not in label set"),
        ({"a/lead.png": index().astype(np.uint8) + 3}, "not the picture"),
        ({"a/lead.png": index() > 0, "lead/a.png": index() > 0}, "two masks"),
    ],
)  # fmt: skip
def test_a_mask_in_doubt_leaves_out_its_picture(
    files: dict[str, np.ndarray], message: str, folder: Path
) -> None:
    for name, values in files.items():
        path = folder / "masks" / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, values)
        else:
            Image.fromarray(values).save(path)
    report, _ = taken(folder)
    assert report.imported == 0
    assert message in report.problems[0].message


def test_what_is_no_folder_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no pictures"):
        import_images(tmp_path, Home(tmp_path / "h"), LABELS)
    with pytest.raises(DataError, match="folder of the masks"):
        import_images(tmp_path, Home(tmp_path / "h"), LABELS, masks=tmp_path / "gone")
