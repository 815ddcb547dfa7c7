"""What computes: the provider that is really taken, and the threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from casebook.errors import ConfigError
from casebook.protocols import Frame
from export.machine import cores
from export.runtime import PROVIDERS, check_taken, load_crew, load_graphs, providers, segmenter_of
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import draw_tube


def test_graphs_take_the_cores_there_are_and_never_more_than_four(workshop: Workshop) -> None:
    assert load_graphs(workshop.folder).threads == min(cores(), 4)
    assert load_graphs(workshop.folder, 3).threads == 3
    assert load_graphs(workshop.folder, provider="cpu").providers == (PROVIDERS["cpu"],)


def test_the_processor_is_always_behind_what_is_asked_for() -> None:
    assert providers("cpu") == (PROVIDERS["cpu"],)
    assert providers()[-1] == PROVIDERS["cpu"]


def test_a_provider_that_is_installed_and_does_not_start_is_refused() -> None:
    check_taken("cuda", (PROVIDERS["cuda"], PROVIDERS["cpu"]))
    check_taken(None, (PROVIDERS["cpu"],))
    with pytest.raises(ConfigError, match="cuda is installed but does not start here"):
        check_taken("cuda", (PROVIDERS["cpu"],))


def test_a_graphs_threads_stop_with_its_answer(workshop: Workshop) -> None:
    graphs = load_graphs(workshop.folder, 2)
    for session in (graphs.encoder, graphs.decoder, graphs.automatic_head):
        options = session.get_session_options()
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_frames_side_by_side_are_answered_as_one_after_the_other(workshop: Workshop) -> None:
    graphs = load_graphs(workshop.folder, 3)
    one = segmenter_of(workshop.bundle, graphs)
    crew = load_crew(workshop.folder, workshop.bundle, one, graphs)
    assert crew.at_once == 3
    assert crew.segmenter is not one
    frames = [Frame(draw_tube(seed).pixels) for seed in range(9)]
    with ThreadPoolExecutor(crew.at_once) as pool:
        found = list(
            pool.map(lambda f: crew.segmenter.automatic_logits(crew.segmenter.embed(f)), frames)
        )
    for frame, logits in zip(frames, found, strict=True):
        assert np.array_equal(one.automatic_logits(one.embed(frame)), logits)


def test_where_there_is_one_thread_frames_are_taken_one_by_one(workshop: Workshop) -> None:
    graphs = load_graphs(workshop.folder, 1)
    one = segmenter_of(workshop.bundle, graphs)
    crew = load_crew(workshop.folder, workshop.bundle, one, graphs)
    assert (crew.segmenter, crew.at_once) == (one, 1)
