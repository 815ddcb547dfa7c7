"""The architecture of SAM 3 from sam3's own modules, at any sizes.

Weights are as upstream leaves them. Knows nothing of how the model is run.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from segmenter.upstream import import_upstream

_modules = import_upstream(("sam3.model_builder", "sam3.model.sam3_tracker_base"))
_mb: Any = _modules["sam3.model_builder"]
_tracker_base: Any = _modules["sam3.model.sam3_tracker_base"]


class Sam3Config(BaseModel):
    """Sizes of a SAM 3; the defaults are the shipped tiny one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side_px: int = Field(128, gt=0)
    patch_px: int = Field(8, gt=0)
    vit_width: int = 128
    vit_depth: int = 4
    vit_heads: int = 4
    vit_mlp_ratio: float = 4.0
    vit_global_blocks: tuple[int, ...] = (1, 3)
    vit_window: int = 8
    vit_pretrain_px: int = 128
    vit_drop_path: float = 0.0
    vit_checkpointed: bool = False
    width: int = 64
    feedforward: int = 192
    heads: int = 8
    dropout: float = 0.0
    encoder_layers: int = 2
    decoder_layers: int = 2
    geometry_layers: int = 1
    queries: int = 12
    text_width: int = 64
    text_heads: int = 4
    text_layers: int = 2
    memory_width: int = 16
    memory_layers: int = 1
    memory_fuser_layers: int = 1
    multimask_by_stability: bool = False
    tile: float | None = Field(None, ge=0.1, lt=1)
    """Concepts are looked for in squares of this share of an image; in the whole when absent."""
    multimask: bool = False
    """One click alone is answered by the best of three masks, by the overlap expected of each."""
    standardised: bool = True
    """Each square is given mean 0 and deviation 1; else grey 0 to 255 becomes -1 to 1."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Sam3Config":
        if self.side_px % self.patch_px:
            raise ValueError(
                f"side_px {self.side_px} is not a multiple of patch_px {self.patch_px}"
            )
        if self.vit_depth - 1 not in self.vit_global_blocks:
            raise ValueError("the last ViT block must be global: features are read there")
        if self.vit_width % (4 * self.vit_heads):
            raise ValueError("vit_width must be a multiple of 4 × vit_heads (axial RoPE)")
        if self.width % 32:
            raise ValueError("width must be a multiple of 32 (heads, GroupNorm, upscaling)")
        return self

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.side_px // self.patch_px

    @property
    def mask_side(self) -> int:
        """Cells along one side of the mask logits."""
        return 4 * self.grid


REAL = Sam3Config(
    side_px=1008,
    patch_px=14,
    vit_width=1024,
    vit_depth=32,
    vit_heads=16,
    vit_mlp_ratio=4.625,
    vit_global_blocks=(7, 15, 23, 31),
    vit_window=24,
    vit_pretrain_px=336,
    vit_drop_path=0.1,
    vit_checkpointed=True,
    width=256,
    feedforward=2048,
    heads=8,
    dropout=0.1,
    encoder_layers=6,
    decoder_layers=6,
    geometry_layers=3,
    queries=200,
    text_width=1024,
    text_heads=16,
    text_layers=24,
    memory_width=64,
    memory_layers=4,
    memory_fuser_layers=2,
    multimask_by_stability=True,
    multimask=True,
    standardised=False,
)
"""The released model. Source: sam3/model_builder.py and, for its pixels,
sam3/model/sam3_image_processor.py of sam3 0.1.4."""

SMALLEST = Sam3Config(
    side_px=64,
    vit_width=32,
    vit_depth=2,
    vit_heads=2,
    vit_global_blocks=(1,),
    vit_window=4,
    vit_pretrain_px=64,
    width=32,
    feedforward=32,
    encoder_layers=1,
    decoder_layers=1,
    queries=4,
    text_width=16,
    text_heads=2,
    text_layers=1,
)
"""Every class of the real one at its smallest: for tests and quick benches."""


def image_model(c: Sam3Config, vocabulary: Path, *, matching: bool) -> nn.Module:
    """Sam3Image with its interactive predictor.

    Args:
        c: The sizes.
        vocabulary: The BPE file.
        matching: Attach the matcher that training the concept path needs.
    """
    position = _position(c.width)
    vit = _mb.ViT(
        img_size=c.side_px,
        pretrain_img_size=c.vit_pretrain_px,
        patch_size=c.patch_px,
        embed_dim=c.vit_width,
        depth=c.vit_depth,
        num_heads=c.vit_heads,
        mlp_ratio=c.vit_mlp_ratio,
        norm_layer="LayerNorm",
        drop_path_rate=c.vit_drop_path,
        qkv_bias=True,
        use_abs_pos=True,
        tile_abs_pos=True,
        global_att_blocks=c.vit_global_blocks,
        rel_pos_blocks=(),
        use_rope=True,
        use_interp_rope=True,
        window_size=c.vit_window,
        pretrain_use_cls_token=True,
        retain_cls_token=False,
        ln_pre=True,
        ln_post=False,
        return_interm_layers=False,
        bias_patch_embed=False,
        use_act_checkpoint=c.vit_checkpointed,
    )
    neck = _mb.Sam3DualViTDetNeck(
        position_encoding=position,
        d_model=c.width,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        trunk=vit,
        add_sam2_neck=True,
    )
    tokenizer = _mb.SimpleTokenizer(bpe_path=str(vocabulary))
    text = _mb.VETextEncoder(
        tokenizer=tokenizer,
        d_model=c.width,
        width=c.text_width,
        heads=c.text_heads,
        layers=c.text_layers,
        vocab_size=tokenizer.vocab_size,
    )
    image: nn.Module = _mb._create_sam3_model(
        _mb.SAM3VLBackbone(visual=neck, text=text, scalp=1),
        _mb.TransformerWrapper(encoder=_fusion(c), decoder=_detector(c), d_model=c.width),
        _geometry_encoder(c),
        _mb.UniversalSegmentationHead(
            hidden_dim=c.width,
            upsampling_stages=3,
            aux_masks=False,
            presence_head=False,
            dot_product_scorer=None,
            act_ckpt=c.vit_checkpointed,
            cross_attend_prompt=_mb.MultiheadAttention(
                num_heads=c.heads, dropout=0, embed_dim=c.width
            ),
            pixel_decoder=_mb.PixelDecoder(
                num_upsampling_stages=3, interpolation_mode="nearest", hidden_dim=c.width
            ),
        ),
        _mb.DotProductScoring(
            d_model=c.width,
            d_proj=c.width,
            prompt_mlp=_mb.MLP(
                c.width,
                c.feedforward,
                c.width,
                2,
                dropout=c.dropout,
                residual=True,
                out_norm=nn.LayerNorm(c.width),
            ),
        ),
        _interactive(c),
        eval_mode=not matching,
    )
    return image


def _position(width: int) -> Any:
    return _mb.PositionEmbeddingSine(
        num_pos_feats=width,
        normalize=True,
        scale=None,
        temperature=10000,
        precompute_resolution=None,
    )


def _attention(c: Sam3Config, *, batch_first: bool = False) -> Any:
    return _mb.MultiheadAttention(
        num_heads=c.heads, dropout=c.dropout, embed_dim=c.width, batch_first=batch_first
    )


def _layer(c: Sam3Config, *, batch_first: bool, at_attention: bool, at_keys: bool) -> Any:
    return _mb.TransformerEncoderLayer(
        activation="relu",
        d_model=c.width,
        dim_feedforward=c.feedforward,
        dropout=c.dropout,
        pos_enc_at_attn=at_attention,
        pos_enc_at_cross_attn_keys=at_keys,
        pos_enc_at_cross_attn_queries=False,
        pre_norm=True,
        self_attention=_attention(c, batch_first=batch_first),
        cross_attention=_attention(c, batch_first=batch_first),
    )


def _fusion(c: Sam3Config) -> Any:
    return _mb.TransformerEncoderFusion(
        layer=_layer(c, batch_first=True, at_attention=True, at_keys=False),
        num_layers=c.encoder_layers,
        d_model=c.width,
        num_feature_levels=1,
        frozen=False,
        use_act_checkpoint=True,  # upstream asserts it in training mode
        add_pooled_text_to_img_feat=False,
        pool_text_with_mask=True,
    )


def _detector(c: Sam3Config) -> Any:
    return _mb.TransformerDecoder(
        layer=_mb.TransformerDecoderLayer(
            activation="relu",
            d_model=c.width,
            dim_feedforward=c.feedforward,
            dropout=c.dropout,
            cross_attention=_attention(c),
            n_heads=c.heads,
            use_text_cross_attention=True,
        ),
        num_layers=c.decoder_layers,
        num_queries=c.queries,
        return_intermediate=True,
        box_refine=True,
        num_o2m_queries=0,
        dac=True,
        boxRPB="log",
        d_model=c.width,
        frozen=False,
        interaction_layer=None,
        dac_use_selfatt_ln=True,
        resolution=c.side_px,
        stride=c.patch_px,
        use_act_checkpoint=True,
        presence_token=True,
    )


def _geometry_encoder(c: Sam3Config) -> Any:
    return _mb.SequenceGeometryEncoder(
        pos_enc=_position(c.width),
        encode_boxes_as_points=False,
        points_direct_project=True,
        points_pool=True,
        points_pos_enc=True,
        boxes_direct_project=True,
        boxes_pool=True,
        boxes_pos_enc=True,
        d_model=c.width,
        num_layers=c.geometry_layers,
        layer=_layer(c, batch_first=False, at_attention=False, at_keys=True),
        use_act_ckpt=c.vit_checkpointed,
        add_cls=True,
        add_post_encode_proj=True,
    )


def _interactive(c: Sam3Config) -> Any:
    """The SAM 1 task: prompt encoder, mask decoder and the tracker's memory.

    Sam3TrackerBase, because Sam3TrackerPredictor enters a process-wide bf16 autocast
    (sam3_tracking_predictor.py:49).
    """

    def rope(**extra: Any) -> Any:
        return _mb.RoPEAttention(
            embedding_dim=c.width,
            num_heads=1,
            downsample_rate=1,
            dropout=c.dropout,
            rope_theta=10000.0,
            feat_sizes=[c.grid, c.grid],
            **extra,
        )

    memory_layer = _mb.TransformerDecoderLayerv2(
        cross_attention_first=False,
        activation="relu",
        dim_feedforward=c.feedforward,
        dropout=c.dropout,
        pos_enc_at_attn=False,
        pre_norm=True,
        self_attention=rope(),
        d_model=c.width,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=rope(kv_in_dim=c.memory_width, rope_k_repeat=True),
    )
    memory = _mb.SimpleMaskEncoder(
        out_dim=c.memory_width,
        in_dim=c.width,
        position_encoding=_position(c.memory_width),
        mask_downsampler=_mb.SimpleMaskDownSampler(
            embed_dim=c.width,
            kernel_size=3,
            stride=2,
            padding=1,
            interpol_size=[16 * c.grid, 16 * c.grid],
        ),
        fuser=_mb.SimpleFuser(
            layer=_mb.CXBlock(
                dim=c.width,
                kernel_size=7,
                padding=3,
                layer_scale_init_value=1.0e-06,
                use_dwconv=True,
            ),
            num_layers=c.memory_fuser_layers,
        ),
    )
    attention = _mb.TransformerEncoderCrossAttention(
        remove_cross_attention_layers=[],
        batch_first=True,
        d_model=c.width,
        frozen=False,
        pos_enc_at_input=True,
        layer=memory_layer,
        num_layers=c.memory_layers,
        use_act_checkpoint=False,
    )
    tracker = _tracker_base.Sam3TrackerBase(
        image_size=c.side_px,
        num_maskmem=7,
        backbone=None,
        backbone_stride=c.patch_px,
        transformer=_mb.TransformerWrapper(encoder=attention, decoder=None, d_model=c.width),
        maskmem_backbone=memory,
        multimask_output_in_sam=c.multimask_by_stability,
        multimask_output_for_tracking=c.multimask_by_stability,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        max_cond_frames_in_attn=4,
        sam_mask_decoder_extra_args={
            # With one mask token trained, falling back to the other three would be noise.
            "dynamic_multimask_via_stability": c.multimask_by_stability,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    )
    tracker.teacher_force_obj_scores_for_mem = False
    tracker.prob_to_dropout_spatial_mem = 0.0
    return _mb.SAM3InteractiveImagePredictor(tracker)
