"""A SAM 2 of transformers' own classes, as small as they allow, with random weights."""

from pathlib import Path

import torch

from segmenter.upstream import import_upstream

SIDE_PX = 128
WIDTH, MEMORY = 128, 64
"""Memory has 64 channels at any size, and must be narrower than the features."""


def save_small_sam2(folder: Path) -> None:
    transformers = import_upstream(("transformers", "torchvision"))["transformers"]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[SIDE_PX, SIDE_PX],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 2, 4, 2],
        # The first block of a stage cannot be global: it pools.
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[SIDE_PX // step] * 2 for step in (4, 8, 16)],
        fpn_hidden_size=WIDTH,
    )
    cells = SIDE_PX // 16
    config = transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=transformers.Sam2VideoPromptEncoderConfig(
            hidden_size=WIDTH, image_size=SIDE_PX
        ),
        mask_decoder_config=transformers.Sam2VideoMaskDecoderConfig(
            hidden_size=WIDTH, mlp_dim=64, num_attention_heads=4, iou_head_hidden_dim=32
        ),
        image_size=SIDE_PX,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[cells, cells],
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=MEMORY,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=64,
        enable_temporal_pos_encoding_for_object_pointers=True,
        enable_occlusion_spatial_embedding=True,
    )
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    transformers.Sam2VideoModel(config).save_pretrained(folder)
