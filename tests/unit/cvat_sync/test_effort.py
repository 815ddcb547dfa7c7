"""Time spent says where it comes from."""

from datetime import UTC, datetime, timedelta

import pytest

from casebook.corrections import Effort, Share
from cvat_sync.effort import effort_from_dates, effort_from_events, lines
from cvat_sync.remote import RemoteJob, WorkingTime

START = datetime(2026, 1, 1, tzinfo=UTC)


def job(number: int, seconds: float, frames: int = 5) -> RemoteJob:
    end = START + timedelta(seconds=seconds)
    return RemoteJob(number, 1, 0, frames - 1, "acceptance", "completed", None, START, end)


def test_dates_give_the_span_between_first_and_last_change() -> None:
    effort = effort_from_dates(2, [job(1, 120), job(2, 60)])
    assert (effort.seconds, effort.cases, effort.source) == (180.0, 10, "job dates")
    assert not effort.is_simulated


def test_events_of_other_rounds_do_not_count() -> None:
    times = [WorkingTime(1, 30.0, True), WorkingTime(77, 1000.0, False)]
    effort = effort_from_events(2, [job(1, 9000), job(2, 9000)], times)
    assert (effort.seconds, effort.source, effort.is_simulated) == (
        30.0,
        "working time events",
        True,
    )


def test_hours_saved_are_against_five_minutes_a_case() -> None:
    effort = effort_from_dates(2, [job(1, 600, frames=8)])
    assert effort.hours_saved == pytest.approx((8 * 300 - 600) / 3600)
    assert "0.50 hours saved against 300 s a case" in "\n".join(lines(effort))


def test_no_job_is_no_time() -> None:
    effort = effort_from_dates(2, [])
    assert (effort.seconds, effort.cases) == (0, 0)
    assert "0 cases" in lines(effort)[0]


def test_the_interval_of_hours_saved_holds_the_figure_and_is_wider_for_uneven_jobs() -> None:
    even = effort_from_dates(2, [job(number, 600, frames=4) for number in range(10)])
    uneven = effort_from_dates(2, [job(number, 120.0 * number, frames=4) for number in range(10)])
    for effort in (even, uneven):
        assert effort.hours_saved_ci95 is not None
        low, high = effort.hours_saved_ci95
        assert low - 1e-9 <= effort.hours_saved <= high + 1e-9
    assert even.hours_saved_ci95 == pytest.approx((even.hours_saved, even.hours_saved))
    assert "95 % interval" in "\n".join(lines(uneven))


def test_one_job_has_no_interval() -> None:
    assert effort_from_dates(2, [job(1, 60)]).hours_saved_ci95 is None


def test_dates_are_said_to_be_an_upper_bound_and_shares_are_a_table() -> None:
    share = Share(name="annotator-3", cases=4, seconds=240, accepted=3, refined=1, rejected=1)
    effort = effort_from_dates(2, [job(1, 60)]).with_(annotators=(share,))
    text = "\n".join(lines(effort))
    assert "upper bound" in text
    assert (
        "annotator-3            4    60.0         3        1      0        0         1   75%"
        in text
    )


def test_an_effort_of_the_first_schema_is_still_read() -> None:
    old = {"schema": 1, "round": 2, "jobs": [], "source": "job dates"}
    assert Effort.model_validate(old).annotators == ()
