"""The bench of training at real size, at the smallest sizes: what it measures, not how fast."""

from bench.train_memory import measure


def test_lora_is_measured_beside_all_weights() -> None:
    figures = measure(quick=True)
    assert all(
        figures[name] is not None for name in ("peak_gb", "adapter_mb", "images_per_s_ratio")
    )
    share = figures["trainable_fraction"]
    assert share is not None
    # In a model this small the updates are a larger share than the aim allows at real size.
    assert 0 < share < 0.1
