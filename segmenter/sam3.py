"""SAM 3, tiny or real, and its two paths as plain calls.

Coordinates here are pixels of the model's own square. Knows nothing of images, crops or labels.
"""

import gzip
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from segmenter.architecture import REAL, SMALLEST, Sam3Config, image_model
from segmenter.upstream import cuda_means_cpu, import_upstream

__all__ = ["REAL", "SMALLEST", "Features", "Sam3", "Sam3Config", "build"]

_modules = import_upstream(("sam3.model.data_misc", "sam3.model.geometry_encoders"))
_data_misc: Any = _modules["sam3.model.data_misc"]
_geometry: Any = _modules["sam3.model.geometry_encoders"]


class Features(NamedTuple):
    """What the interactive decoder reads, per image."""

    embedding: Float[Tensor, "b c g g"]
    fine: Float[Tensor, "b c0 m m"]
    middle: Float[Tensor, "b c1 n n"]

    def rows(self, index: Int[Tensor, " k"]) -> "Features":
        """The features repeated or selected by image index."""
        return Features(self.embedding[index], self.fine[index], self.middle[index])


class Sam3(nn.Module):
    """SAM 3 with its interactive and its concept path as two plain calls."""

    def __init__(self, image: nn.Module, config: Sam3Config) -> None:
        super().__init__()
        self.image: Any = image
        self.config = config
        self.view_embedding: nn.Module | None = None
        """What a view adds to texts; an adapter may bring one."""

    @property
    def tracker(self) -> Any:
        """Sam3TrackerBase: prompt encoder, mask decoder and memory."""
        return self.image.inst_interactive_predictor.model

    def trunk(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b w g g"]:
        """The ViT's last feature map, which both necks read."""
        features: Tensor = self.image.backbone.vision_backbone.trunk(pixels)[-1]
        return features

    def interactive_features(self, trunk: Float[Tensor, "b w g g"]) -> Features:
        """Features of the interactive path; only its own neck is run."""
        convs = self.image.backbone.vision_backbone.sam2_convs
        decoder = self.tracker.sam_mask_decoder
        embedding = convs[2](trunk) + self.tracker.no_mem_embed.view(1, -1, 1, 1)
        return Features(
            embedding, decoder.conv_s0(convs[0](trunk)), decoder.conv_s1(convs[1](trunk))
        )

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Features:
        """Features of the interactive path from normalised pixels."""
        return self.interactive_features(self.trunk(pixels))

    def decode(
        self,
        features: Features,
        points_xy: Float[Tensor, "b n 2"],
        point_labels: Int[Tensor, "b n"],
        mask_logits: Float[Tensor, "b 1 m m"] | None = None,
        has_mask: Bool[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b m m"], Float[Tensor, " b"]]:
        """Mask logits and predicted IoU for one prompt per row of features.

        The decoder is called directly: ``_forward_sam_heads`` replaces masks by -1024 where the
        object score is negative, which stops the gradient.

        Args:
            point_labels: 1 inside, 0 outside, 2 and 3 the box corners, -1 padding.
            mask_logits: Logits of an earlier answer to the same prompt.
            has_mask: Rows whose mask_logits count; all when absent.
        """
        asked = self._asked(features, points_xy, point_labels, mask_logits, has_mask)
        logits, iou, _, _ = self.tracker.sam_mask_decoder(multimask_output=False, **asked)
        return logits[:, 0], iou[:, 0]

    def candidates(
        self,
        features: Features,
        points_xy: Float[Tensor, "b n 2"],
        point_labels: Int[Tensor, "b n"],
        mask_logits: Float[Tensor, "b 1 m m"] | None = None,
        has_mask: Bool[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b 4 m m"], Float[Tensor, "b 4"]]:
        """Every mask of the decoder with its predicted IoU; arguments as of `decode`.

        First the one for prompts that leave no doubt, then the three for a prompt that does.
        """
        asked = self._asked(features, points_xy, point_labels, mask_logits, has_mask)
        logits, iou, _, _ = self.tracker.sam_mask_decoder.predict_masks(**asked)
        return logits, iou

    def _asked(
        self,
        features: Features,
        points_xy: Float[Tensor, "b n 2"],
        point_labels: Int[Tensor, "b n"],
        mask_logits: Float[Tensor, "b 1 m m"] | None,
        has_mask: Bool[Tensor, " b"] | None,
    ) -> dict[str, Any]:
        """What the mask decoder is given for prompts."""
        prompts = self.tracker.sam_prompt_encoder
        sparse, dense = prompts(points=(points_xy, point_labels), boxes=None, masks=None)
        if mask_logits is not None:
            from_mask = prompts.mask_downscaling(mask_logits)
            dense = (
                from_mask
                if has_mask is None
                else torch.where(has_mask[:, None, None, None], from_mask, dense)
            )
        return {
            "image_embeddings": features.embedding,
            "image_pe": prompts.get_dense_pe(),
            "sparse_prompt_embeddings": sparse,
            "dense_prompt_embeddings": dense,
            "repeat_image": False,
            "high_res_features": [features.fine, features.middle],
        }

    def concept_features(self, trunk: Float[Tensor, "b w g g"]) -> dict[str, Any]:
        """Features of the concept path; the half-size level is dropped, as upstream does."""
        neck = self.image.backbone.vision_backbone
        maps = [neck.convs[level](trunk) for level in range(3)]
        return {
            "backbone_fpn": maps,
            "vision_pos_enc": [neck.position_encoding(x).to(x.dtype) for x in maps],
            "vision_features": maps[-1],
        }

    def text_features(self, concepts: Sequence[str]) -> dict[str, Any]:
        """Encoded concept texts, one column per concept."""
        encoded: dict[str, Any] = self.image.backbone.forward_text(
            list(concepts), device=self.device
        )
        return encoded

    def ground(
        self,
        vision: dict[str, Any],
        text: dict[str, Any],
        image_index: Int[Tensor, " q"],
        text_index: Int[Tensor, " q"],
        *,
        exemplars_cxcywh: Float[Tensor, "q e 4"] | None = None,
        views: Float[Tensor, "q 5"] | None = None,
        target: Any = None,
    ) -> dict[str, Any]:
        """All instances of each concept in its image: logits, boxes, masks, presence.

        Args:
            image_index: The image each query looks at.
            text_index: The concept each query asks for.
            exemplars_cxcywh: Boxes of examples, as fractions of the square.
            views: Numbers of each query's view; read where the model has a `view_embedding`.
            target: Truth, needed while training: upstream matches inside the forward pass.
        """
        text, stage, prompt = self._query(text, image_index, text_index, exemplars_cxcywh, views)
        out: dict[str, Any] = self.image.forward_grounding(
            backbone_out={**vision, **text},
            find_input=stage,
            find_target=target,
            geometric_prompt=prompt,
        )
        return out

    def dense(
        self,
        vision: dict[str, Any],
        text: dict[str, Any],
        image_index: Int[Tensor, " q"],
        text_index: Int[Tensor, " q"],
        *,
        views: Float[Tensor, "q 5"] | None = None,
    ) -> Float[Tensor, "q m m"]:
        """The dense map of each concept in its image; arguments as of `ground`.

        The same map as `ground` gives, without its object queries: the parts of
        ``forward_grounding`` (sam3 0.1.4, model/sam3_image.py:442) that it depends on.
        """
        text, stage, prompt = self._query(text, image_index, text_index, None, views)
        encoded, mask, backbone = self.image._encode_prompt({**vision, **text}, stage, prompt)
        backbone, fused, _ = self.image._run_encoder(backbone, stage, encoded, mask)
        states = fused["encoder_hidden_states"]
        out: dict[str, Any] = self.image.segmentation_head(
            backbone_feats=backbone["backbone_fpn"],
            obj_queries=states.new_zeros(1, len(image_index), 1, states.shape[-1]),
            image_ids=image_index,
            encoder_hidden_states=states,
            prompt=encoded,
            prompt_mask=mask,
        )
        logits: Tensor = out["semantic_seg"][:, 0]
        return logits

    def _query(
        self,
        text: dict[str, Any],
        image_index: Int[Tensor, " q"],
        text_index: Int[Tensor, " q"],
        exemplars_cxcywh: Float[Tensor, "q e 4"] | None,
        views: Float[Tensor, "q 5"] | None,
    ) -> tuple[dict[str, Any], Any, Any]:
        """Texts, queries and boxes of examples as upstream takes them."""
        count = len(image_index)
        if self.view_embedding is not None and views is not None:
            # One text a query: two queries of one name may be of different views.
            added = self.view_embedding(views.to(self.device))
            text = {
                **text,
                "language_features": text["language_features"][:, text_index] + added,
                "language_mask": text["language_mask"][text_index],
            }
            text_index = torch.arange(count, device=self.device)
        boxes = exemplars_cxcywh
        if boxes is None:
            boxes = torch.zeros(count, 0, 4, device=self.device)
        n_boxes = boxes.shape[1]
        prompt = _geometry.Prompt(
            box_embeddings=boxes.transpose(0, 1).contiguous(),
            box_mask=torch.zeros(count, n_boxes, dtype=torch.bool, device=self.device),
            box_labels=torch.ones(n_boxes, count, dtype=torch.long, device=self.device),
        )
        stage = _data_misc.FindStage(
            img_ids=image_index,
            text_ids=text_index,
            input_boxes=None,
            input_boxes_mask=None,
            input_boxes_label=None,
            input_points=None,
            input_points_mask=None,
        )
        return text, stage, prompt

    def remember(
        self,
        pixels: Float[Tensor, "1 3 s s"],
        known: dict[str, dict[int, Any]],
        index: int,
        mask: Float[Tensor, "1 1 k k"] | None = None,
    ) -> dict[str, Any]:
        """The mask on the next picture of a sequence and what to remember of it.

        Args:
            pixels: The picture.
            known: Earlier results by index: "cond_frame_outputs" where a mask was given,
                "non_cond_frame_outputs" where one was found.
            index: Position of the picture in the sequence.
            mask: A given mask, at 16 cells a patch; starts the sequence.
        """
        neck = self.image.backbone.vision_backbone
        features = self.encode(pixels)
        # Where there is memory the "no memory" embedding must not be in the features.
        plain = features.embedding - self.tracker.no_mem_embed.view(1, -1, 1, 1)
        maps = [features.fine, features.middle, plain]
        with cuda_means_cpu():
            _, flat, positions, sizes = self.tracker._prepare_backbone_features(
                {
                    "backbone_fpn": maps,
                    "vision_pos_enc": [neck.position_encoding(x).to(x.dtype) for x in maps],
                }
            )
            out: dict[str, Any] = self.tracker.track_step(
                frame_idx=index,
                is_init_cond_frame=mask is not None,
                current_vision_feats=flat,
                current_vision_pos_embeds=positions,
                feat_sizes=sizes,
                image=pixels,
                point_inputs=None,
                mask_inputs=mask,
                output_dict=known,
                num_frames=index + 1,
            )
        return out

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def _byte_vocabulary(folder: Path) -> Path:
    """A vocabulary file without merges: every byte is a token (514 in all)."""
    path = folder / "bytes.txt.gz"
    with gzip.open(path, "wt") as out:
        out.write("#version: 0.2\n")
    return path


def build(config: Sam3Config, *, vocabulary: Path | None = None, matching: bool = True) -> Sam3:
    """A SAM 3 of the given sizes with random weights, in evaluation mode.

    Args:
        vocabulary: The BPE file; without it the text encoder reads bytes.
        matching: Attach the matcher that training the concept path needs.
    """
    with (
        cuda_means_cpu(),
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as folder,
    ):
        warnings.simplefilter("ignore")
        image = image_model(config, vocabulary or _byte_vocabulary(Path(folder)), matching=matching)
    # Left as torch.empty upstream (text_encoder_ve.py:196,218): may hold NaN.
    for name, parameter in image.named_parameters():
        if name.endswith(("text_projection", "positional_embedding")):
            nn.init.normal_(parameter, std=0.02)
    return Sam3(image, config).eval()
