"""`make calibrate`: what the scores of the model in use are worth, kept for the functions.

    python -m serverless.calibrate

The model is the one the functions would serve (serverless/models.py); the cases are the frozen
validation cases of the workspace. Functions that serve the model take the result up by themselves.
"""

import sys

import click
from tqdm import tqdm

from angio.calibration import calibrate
from casebook.calibration import Calibration, Curve, write_calibration
from casebook.catalogue import Catalogue
from casebook.errors import AngioloopError, ConfigError
from casebook.home import Home
from serverless.models import model_in_use


def lines(found: Calibration) -> list[str]:
    """What was measured, in words: one line on the model, one for each path."""
    said = [f"{found.model_id} on {found.cases} validation cases:"]
    named: tuple[tuple[str, Curve | None], ...] = (("box", found.box), ("concept", found.concept))
    for path, curve in named:
        if curve is None:
            said.append(f"  {path}: too few masks with a known truth; shown as before")
            continue
        said.append(
            f"  {path}: {curve.right} of {curve.masks} masks right (IoU {found.right_iou}); Brier "
            f"score {curve.brier_score:.3f} by the bare score, {curve.brier_curve:.3f} by the curve"
        )
    return said


@click.command()
def main() -> None:
    """Calibrate the model the functions serve, on the workspace's validation cases.

    Example: ANGIOLOOP_HOME=workspace python -m serverless.calibrate
    """
    home = Home.resolve()
    try:
        if not home.catalogue.exists():
            raise ConfigError(
                f"{home.root} has no catalogue; import cases with `casebook import`, or set "
                "ANGIOLOOP_HOME"
            )
        model, labels = model_in_use()
        with tqdm(desc="calibrate", unit="case", file=sys.stderr, leave=False, disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            found = calibrate(model.segmenter, Catalogue(home), labels, progress=progress)
        write_calibration(home, found)
    except AngioloopError as problem:
        click.echo(f"Error: {problem}", err=True)
        sys.exit(problem.exit_code)
    click.echo("\n".join(lines(found)))


if __name__ == "__main__":
    main()
