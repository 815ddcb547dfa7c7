"""The detector for CVAT's own command line: any server, no Nuclio.

    cvat-cli task auto-annotate 7 --function-file serverless/auto_annotation.py

The environment says which model (serverless/models.py). Same answers as the deployed detector, with
the score kept. Knows no server.
Source: cvat-ai/cvat, cvat-sdk/cvat_sdk/auto_annotation/interface.py.
"""

import base64
import io
import logging
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import PIL.Image
import PIL.PngImagePlugin
from cvat_sdk import models
from pydantic import TypeAdapter

from casebook import masks
from casebook.catalogue import refuse_deep
from casebook.errors import DataError, ModelError
from casebook.labels import LabelSet
from casebook.wire import Detection
from serverless.live import LiveModel
from serverless.models import configured_labels, live_model
from serverless.spec import LabelSpec, label_specs

_log = logging.getLogger(__name__)
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
"""What Pillow writes as PNG; a JPEG may be CMYK."""
_DETECTIONS = TypeAdapter(tuple[Detection, ...])


def _label(spec: LabelSpec) -> Any:
    attributes = [
        cvataa.attribute_spec(entry.name, number, entry.input_type, list(entry.values))
        for number, entry in enumerate(spec.attributes, start=1)
    ]
    return cvataa.label_spec(spec.name, spec.id, type=spec.type, attributes=attributes)


class Detector:
    """Implements `cvat_sdk.auto_annotation.DetectionFunction`."""

    def __init__(self, labels: LabelSet, live: LiveModel[Any]) -> None:
        specs = label_specs(labels)
        self._ids = {spec.name: spec.id for spec in specs}
        self._attribute_ids = {
            entry.name: number for number, entry in enumerate(specs[0].attributes, start=1)
        }
        self._live = live
        self._spec = cvataa.DetectionFunctionSpec(labels=[_label(spec) for spec in specs])

    @property
    def spec(self) -> Any:
        """The labels and attributes this function answers with."""
        return self._spec

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> list[models.LabeledShapeRequest]:
        """Every label's masks on one frame, or their outlines when polygons are asked for.

        Raises:
            ModelError: the model cannot answer; the reason is given.
            DataError: the frame is torn, or has more than 8 bits a sample.
        """
        try:
            payload = encoded(image)
        except DataError as problem:
            raise DataError(f"frame {context.frame_name}: {problem}") from None
        request: dict[str, object] = {"image": base64.b64encode(payload).decode()}
        if context.conf_threshold is not None:
            request["threshold"] = float(context.conf_threshold)
        reply = self._live.handler().reply("detector", request)
        if reply.status != 200:
            raise ModelError(f"frame {context.frame_name}: {reply.body}")
        found = _DETECTIONS.validate_json(reply.body)
        return [self._shape(entry, image, context.conv_mask_to_poly) for entry in found]

    def _shape(
        self, entry: Detection, image: PIL.Image.Image, as_polygon: bool
    ) -> models.LabeledShapeRequest:
        attributes = [
            models.AttributeValRequest(spec_id=self._attribute_ids[named.name], value=named.value)
            for named in entry.attributes
            if named.name in self._attribute_ids
        ]
        label_id = self._ids[entry.label]
        options: dict[str, Any] = {"attributes": attributes, "score": float(entry.confidence)}
        if as_polygon:
            return cvataa.polygon(label_id, list(entry.points), **options)
        bitmap = masks.from_detector(entry.mask, (image.height, image.width))
        return cvataa.mask(label_id, [float(n) for n in masks.to_cvat(bitmap)], **options)


def encoded(image: PIL.Image.Image) -> bytes:
    """The image as a PNG with the text chunks it came with, which carry its geometry.

    Raises:
        DataError: it is torn, or has more than 8 bits a sample.
    """
    refuse_deep(image)
    chunks, stream = PIL.PngImagePlugin.PngInfo(), io.BytesIO()
    try:  # decoded here for the first time
        image.load()
        for name, text in dict(getattr(image, "text", {}) or {}).items():
            chunks.add_text(name, text)
        whole = image if image.mode in _PNG_MODES else image.convert("RGB")
        whole.save(stream, "PNG", pnginfo=chunks)
    except OSError as problem:
        raise DataError(f"not a readable image: {problem}; upload the frame again") from None
    return stream.getvalue()


def create() -> Detector:
    """What `cvat-cli --function-file` calls.

    Raises:
        ConfigError: a setting is wrong.
    """

    def tell(message: str, fields: dict[str, str]) -> None:
        _log.info("%s: %s", message, fields)

    return Detector(configured_labels(), live_model(tell))
