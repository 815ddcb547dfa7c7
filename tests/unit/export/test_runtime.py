"""What computes: the provider that is really taken, and the threads."""

import pytest

from casebook.errors import ConfigError
from export.machine import cores
from export.runtime import PROVIDERS, check_taken, load_graphs, providers
from tests.unit.export.conftest import Workshop


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
