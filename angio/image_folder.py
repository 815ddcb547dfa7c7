"""A folder of pictures with masks, of any domain, as cases.

Masks lie in a folder of their own: `NAME.png` whose pixels are label codes, or one file a label,
`NAME/LABEL.png` or `LABEL/NAME.png`. The label file says what there is.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from angio.intake import ImportReport, Incoming, Progress, key_for, take_in
from angio.picture_files import MASK_SUFFIXES, SUFFIXES, read_bitmap, read_index, read_picture
from angio.plain_cases import Drawn, Plain, Source, picture_files
from angio.review import Desk
from angio.roster import SPLITS, read_roster
from casebook.cases import Split
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import LabelSet

PICTURE = "the picture"
MASK = "the mask"


def import_images(
    path: Path,
    home: Home,
    labels: LabelSet,
    *,
    masks: Path | None = None,
    split: Split | None = None,
    patients: Path | None = None,
    ruled_clean: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a folder of pictures; a picture without masks comes in without annotations.

    Args:
        path: The folder; with `images/` in it, the pictures are those in there, and the masks
            those in `masks/` beside. Folders train, val and test at its top are splits.
        home: The workspace.
        labels: What may be drawn.
        masks: The folder of masks, where it lies elsewhere.
        split: The split of the whole folder; else by place, else by patient or picture.
        patients: A table of patients (angio/roster.py).
        ruled_clean: A person has looked: no picture carries text.
        dry_run: Check everything, write nothing.
        progress: Told how many pictures of how many are done.

    Raises:
        DataError: there is no picture, or no folder of masks where one was named.
    """
    root = path / "images" if (path / "images").is_dir() else path
    beside = path / "masks"
    drawn = masks or (beside if beside.is_dir() else None)
    if drawn is not None and not drawn.is_dir():
        raise DataError(f"{drawn} is no folder; give the folder of the masks")
    files = [file for file in picture_files(root, SUFFIXES) if not _under(file, drawn)]
    if not files:
        raise DataError(
            f"{root} has no pictures ({', '.join(sorted(SUFFIXES))}); give their folder"
        )
    key = key_for(home, dry_run=dry_run)
    source = Source(
        "images", "i", labels, read_roster(patients, key, split), Desk.open(home, dry_run=dry_run),
        ruled_clean,
    )  # fmt: skip

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        for number, file in enumerate(files, start=1):
            name = file.relative_to(root)
            yield f"picture {number} of {len(files)}", partial(_read, file, name, drawn, source)

    notes = [source.roster.note, "pictures are numbered in the order of their names"]
    return take_in(
        home, "images", cases(), total=len(files), notes=notes, dry_run=dry_run, progress=progress
    )


def _under(file: Path, folder: Path | None) -> bool:
    return folder is not None and file.is_relative_to(folder)


def _read(file: Path, name: Path, masks: Path | None, source: Source) -> Incoming:
    pixels, stored = read_picture(file, PICTURE)
    hw = (int(pixels.shape[0]), int(pixels.shape[1]))
    drawn = tuple(_drawn(name, masks, source.labels, hw)) if masks else ()
    split = SPLITS.get(name.parts[0].casefold()) if len(name.parts) > 1 else None
    return source.incoming(Plain(name.as_posix(), pixels, stored, drawn, split=split))


def _drawn(name: Path, masks: Path, labels: LabelSet, hw: tuple[int, int]) -> Iterator[Drawn]:
    """What was drawn on a picture, wherever its masks lie.

    Raises:
        DataError: a mask is damaged, of another size, of no label, or given in two forms.
    """
    stem = name.with_suffix("")
    whole = _masks_at(masks / stem.parent, stem.name)
    own = masks / stem
    single = (
        [(file.stem, file) for file in picture_files(own, MASK_SUFFIXES)] if own.is_dir() else []
    )
    for label in labels.masks:
        for folder in {label.name, label.name.replace(" ", "_")}:
            found = _masks_at(masks / folder / stem.parent, stem.name)
            single += [(label.name, file) for file in found]
    if len(whole) > 1 or (whole and single):
        raise DataError(
            f"has masks in {len(whole) + len(single)} forms; expected one; take out all but one"
        )
    if whole:
        index = read_index(whole[0], MASK)
        _check_size(index.shape, hw)
        yield from _of_index(index, labels)
    taken: set[str] = set()
    for word, file in sorted(single):
        label = labels.find(word)
        if label.kind != "mask" or label.name in taken:
            raise DataError(f"has two masks of {label.name!r}, or it is no mask; take one out")
        taken.add(label.name)
        bitmap = read_bitmap(file, MASK)
        _check_size(bitmap.shape, hw)
        if bitmap.any():
            yield Drawn(label.name, bitmap)


def _masks_at(folder: Path, stem: str) -> list[Path]:
    return [
        file for suffix in sorted(MASK_SUFFIXES) if (file := folder / f"{stem}{suffix}").is_file()
    ]


def _check_size(shape: tuple[int, ...], hw: tuple[int, int]) -> None:
    if shape != hw:
        raise DataError(f"{MASK} is {shape} px; its picture is {hw}; save it at the picture's size")


def codes_of(labels: LabelSet) -> dict[int, str]:
    """Label by the number it has in a mask: its code where every label has one, else its place.

    Raises:
        DataError: two labels have one code.
    """
    found = labels.masks
    if not all(label.code is not None for label in found):
        return {place: label.name for place, label in enumerate(found, start=1)}
    codes = {label.code: label.name for label in found if label.code is not None}
    if len(codes) != len(found) or any(not 1 <= code <= 65535 for code in codes):
        raise DataError(
            f"label set {labels.name!r} repeats a code or has one outside 1 to 65535; give each "
            "label its own"
        )
    return codes


def _of_index(values: UInt16[np.ndarray, "h w"], labels: LabelSet) -> Iterator[Drawn]:
    codes = codes_of(labels)
    found = [int(value) for value in np.unique(values) if value]
    if len(codes) == 1 and len(found) == 1 and found[0] in {1, 255}:
        codes = {found[0]: next(iter(codes.values()))}  # a mask of the only label there is
    unknown = [value for value in found if value not in codes]
    if unknown:
        raise DataError(
            f"{MASK} has values {unknown[:5]}, which are codes of no label of {labels.name!r}; "
            f"expected {sorted(codes)[:30]}; correct the mask or the label file"
        )
    for value in found:
        yield Drawn(codes[value], np.asarray(values == value))
