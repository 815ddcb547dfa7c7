"""What a round holds, by hash: the same hash, the same data. Knows no images."""

from casebook.annotations import AnnotationSet, CocoAnnotation, read_annotations
from casebook.catalogue import Catalogue
from casebook.documents import Document, sha256_of, sha256_of_file
from casebook.rounds import RoundFolder


class FrameContent(Document):
    """One frame of a round."""

    file_name: str
    split: str
    image_sha256: str
    masks_sha256: str | None
    """Of what is annotated on it; nothing before the round is annotated."""


class RoundContent(Document):
    """The data of a round."""

    round: int
    manifest_sha256: str
    annotations_sha256: str | None
    frames: tuple[FrameContent, ...]
    content_sha256: str
    """Of all frames and masks; times, order and file layout do not count."""
    changed: tuple[str, ...]
    """Frames whose pixels on disk are missing or no longer those of the manifest."""


def digest_of(annotations: AnnotationSet, entries: tuple[CocoAnnotation, ...]) -> str:
    """Hash of some masks with their labels and origins, in any order."""
    lines = sorted(
        f"{annotations.label_of(one)}|{one.origin.value}|{one.model_id or ''}|"
        f"{one.segmentation.size}|{one.segmentation.counts}"
        for one in entries
    )
    return sha256_of("\n".join(lines).encode())


def content_of(folder: RoundFolder) -> RoundContent:
    """The hashes of a round's frames and masks, with every frame on disk hashed again.

    Raises:
        StateError: the round has no manifest.
        DataError: a document is damaged.
    """
    manifest = folder.manifest()
    path = folder.file("annotations.coco.json")
    annotations = read_annotations(path) if path.exists() else AnnotationSet()
    drawn = {
        image.file_name: digest_of(annotations, annotations.of_image(image.id))
        for image in annotations.images
    }
    frames, changed = [], []
    catalogue = Catalogue(folder.home)
    parts = {"train": manifest.cases, "val": manifest.val, "test": manifest.test}
    for split, entries in parts.items():
        for entry in entries:
            picture = catalogue.frame_path(entry.at)
            if not picture.exists() or sha256_of_file(picture) != entry.image_sha256:
                changed.append(entry.at.file_name)
            frames.append(
                FrameContent(
                    file_name=entry.at.file_name,
                    split=split,
                    image_sha256=entry.image_sha256,
                    masks_sha256=drawn.get(entry.at.file_name) if split == "train" else None,
                )
            )
    listing = sorted(
        f"{one.split}|{one.file_name}|{one.image_sha256}|{one.masks_sha256 or ''}" for one in frames
    )
    return RoundContent(
        round=folder.number,
        manifest_sha256=folder.manifest_sha256(),
        annotations_sha256=sha256_of_file(path) if path.exists() else None,
        frames=tuple(frames),
        content_sha256=sha256_of("\n".join(listing).encode()),
        changed=tuple(changed),
    )
