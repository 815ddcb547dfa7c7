import pytest
import torch

from segmenter.sam3 import REAL, Sam3, Sam3Config, build
from segmenter.upstream import cuda_means_cpu, import_upstream, shapes_only


def test_a_built_model_has_no_uninitialised_weight() -> None:
    torch.manual_seed(0)
    model = build(Sam3Config(vit_depth=1, vit_global_blocks=(0,), text_layers=1))
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.abs().max() < 50, name


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"side_px": 100}, "multiple of patch_px"),
        ({"vit_global_blocks": (1,)}, "last ViT block"),
        ({"vit_width": 36}, "axial RoPE"),
        ({"width": 48}, "multiple of 32"),
    ],
)
def test_sizes_that_cannot_work_are_refused(sizes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sam3Config.model_validate(sizes)


PLACES = {
    "": "backbone.vision_backbone",
    "maskmem_backbone": "inst_interactive_predictor.model.maskmem_backbone",
    "tracker_transformer": "inst_interactive_predictor.model.transformer",
}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return isinstance(value, (bool, int, float, str))


def _settings(module: torch.nn.Module) -> dict[str, dict[str, object]]:
    """Class and plain settings of every part: strides, heads, rates, what is switched on."""
    return {
        path: {"class": type(part)}
        | {key: value for key, value in vars(part).items() if _is_plain(value)}
        for path, part in module.eval().named_modules()
    }


def test_the_real_sizes_build_the_released_architecture() -> None:
    upstream = import_upstream(("sam3.model_builder",))["sam3.model_builder"]
    with shapes_only(), cuda_means_cpu():
        model = build(REAL, matching=False)
        ours = model.state_dict()
        released = {
            "": upstream._create_vision_backbone(enable_inst_interactivity=True),
            "transformer": upstream._create_sam3_transformer(),
            "geometry_encoder": upstream._create_geometry_encoder(),
            "segmentation_head": upstream._create_segmentation_head(),
            "dot_prod_scoring": upstream._create_dot_product_scoring(),
            "maskmem_backbone": upstream._create_tracker_maskmem_backbone(),
            "tracker_transformer": upstream._create_tracker_transformer(),
        }
    compared = 0
    for name, module in released.items():
        place = PLACES.get(name, name)
        for key, value in module.state_dict().items():
            path = f"image.{place}.{key}"
            assert ours[path].shape == value.shape, path
            compared += 1
        settings = _settings(model.get_submodule(f"image.{place}"))
        for path, values in _settings(module).items():
            assert settings[path] == values, f"{place}.{path}"
    assert compared > 900


def test_an_answer_does_not_depend_on_the_other_rows(small: Sam3) -> None:
    pixels = torch.randn(2, 3, 64, 64)
    points = torch.tensor([[[5.0, 5.0], [40.0, 30.0]], [[8.0, 2.0], [60.0, 61.0]]])
    labels = torch.tensor([[2, 3], [2, 3]])
    with torch.no_grad():
        together, _ = small.decode(small.encode(pixels), points, labels)
        alone, _ = small.decode(small.encode(pixels[1:]), points[1:], labels[1:])
    assert torch.allclose(together[1], alone[0], atol=1e-4)


def test_an_earlier_mask_changes_the_answer_only_where_it_is_given(small: Sam3) -> None:
    features = small.encode(torch.randn(1, 3, 64, 64)).rows(torch.tensor([0, 0]))
    points, labels = torch.tensor([[[5.0, 5.0]]] * 2), torch.tensor([[1]] * 2)
    earlier = torch.randn(2, 1, small.config.mask_side, small.config.mask_side)
    with torch.no_grad():
        plain, _ = small.decode(features, points, labels)
        mixed, _ = small.decode(features, points, labels, earlier, torch.tensor([True, False]))
    assert not torch.allclose(mixed[0], plain[0], atol=1e-4)
    assert torch.allclose(mixed[1], plain[1], atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="under CUDA torch's own attention is used")
@pytest.mark.parametrize("tokens", [64, 600], ids=["written out", "fused"])
def test_attention_on_a_processor_has_torchs_values_and_gradients(tokens: int) -> None:
    attention = vars(import_upstream(("sam3.model.vitdet",))["sam3.model.vitdet"])["F"]
    asked = [torch.randn(1, 2, tokens, 16, requires_grad=True) for _ in range(3)]
    found = attention.scaled_dot_product_attention(*asked)
    ours = torch.autograd.grad(found.square().sum(), asked)
    expected = torch.nn.functional.scaled_dot_product_attention(*asked)
    theirs = torch.autograd.grad(expected.square().sum(), asked)
    assert torch.allclose(found, expected, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="under CUDA torch's own attention is used")
def test_attention_over_many_tokens_keeps_no_map_of_all_pairs() -> None:
    attention = vars(import_upstream(("sam3.model.vitdet",))["sam3.model.vitdet"])["F"]
    asked = torch.randn(1, 1, 1024, 8)
    with torch.profiler.profile(profile_memory=True) as told:
        attention.scaled_dot_product_attention(asked, asked, asked)
    largest = max(event.self_cpu_memory_usage for event in told.key_averages())
    assert 0 < largest < 1024 * 1024 * 4


def test_the_dense_map_alone_is_the_one_that_comes_with_all_instances(small: Sam3) -> None:
    pixels = torch.randn(2, 3, 64, 64)
    images, texts = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    with torch.no_grad():
        vision = small.concept_features(small.trunk(pixels))
        words = small.text_features(["line", "a longer name"])
        everything = small.ground(vision, words, images, texts)["semantic_seg"][:, 0]
        alone = small.dense(vision, words, images, texts)
    assert torch.equal(alone, everything)
    assert not torch.allclose(alone[0], alone[2])
