"""A frame with its masks, taken over from one annotation set into another."""

from collections.abc import Mapping

from casebook.annotations import AnnotationSet, AnnotationSetBuilder, CocoAnnotation, CocoImage

Sent = Mapping[tuple[str, str], CocoAnnotation]
"""Masks a frame was sent with, by label and counts."""


def copy_frame(
    builder: AnnotationSetBuilder,
    image: CocoImage,
    source: AnnotationSet,
    sent: Sent | None = None,
) -> None:
    """Add a frame as it is in `source`; a mask that was sent, and is the same, keeps its origin."""
    image_id = builder.add_image(
        image.ref,
        (image.height, image.width),
        status=image.status,
        reason=image.reason,
        notes=image.notes,
    )
    for entry in source.of_image(image.id):
        label = source.label_of(entry)
        first = (sent or {}).get((label, entry.segmentation.counts), entry)
        builder.add_mask(
            image_id,
            label,
            entry.mask,
            first.origin,
            model_id=first.model_id,
            score=first.score,
            prompt_source=first.prompt_source,
            annotator=entry.annotator or first.annotator,
            attributes=entry.attributes,
        )
