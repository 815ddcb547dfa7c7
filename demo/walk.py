"""The walk: phantoms (or ARCADE) through three rounds, the student and measurements.

Runs the real commands in their order; each is idempotent, so a second run goes on from where the
first one stopped. Knows what follows what, and nothing of how.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import click

from angio.phantoms.truth import read_truth
from angio.review import read_held
from casebook.documents import read_document, write_bytes, write_document
from casebook.errors import AngioloopError, ConfigError, DataError, ModelError
from casebook.home import Home
from casebook.labels import read_labels
from casebook.registry import Registry
from demo.expert import Desk, Expert, Habits, Truth
from demo.services import Services, services
from demo.steps import MemoryWatch, beside, run, say, stopwatch
from demo.summary import Clock, measured, qca_row, student_row, summarise, table
from demo.truth import arcade_truth, phantom_truth, unseen_truth

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = (1, 2, 3)
DEMO_KEY = b"00" * 32
"""The demo's key for pseudonyms, known to all: its patients are synthetic (ARCADE's public), and
the same key makes the same case ids, so that two walks can be compared. A workspace of your own
makes a secret one."""


class Walk:
    """One walk through a workspace."""

    def __init__(
        self, home: Path, conf: Path, patients: int, seed: int, arcade: Path | None
    ) -> None:
        self.home = Home(home.resolve())
        self.conf = conf.resolve()
        self.arcade = arcade
        self.patients = patients
        self.seed = seed
        self.study = self.home.root / "phantoms"
        self.labels_path = (
            self.conf.parent / "labels" / ("arcade.yaml" if arcade else "coronary.yaml")
        )
        self.labels = read_labels(self.labels_path)
        self.env = {
            "ANGIOLOOP_HOME": str(self.home.root),
            "ANGIOLOOP_CONF": str(self.conf.parent),
            "ANGIOLOOP_USER": "demo",
        }

    @property
    def at_home(self) -> tuple[str, ...]:
        """The options every command takes."""
        return "--home", str(self.home.root)

    def cases(self) -> Truth:
        """Bring the cases in; what the expert will see comes back."""
        key = self.home.private / "key"
        if not key.exists():
            write_bytes(key, DEMO_KEY, mode=0o600)
        if self.arcade is not None:
            say("1. Import ARCADE: 50 annotated for round 1, 25 frozen val, official val as test")
            run(
                (
                    *("casebook", "import", "arcade", str(self.arcade), *self.at_home),
                    *("--labels", str(self.labels_path)),
                    *("--bootstrap", "50", "--val", "25", "--split-map", "val=test"),
                ),
                self.env,
            )
            return arcade_truth(self.arcade, self.labels)
        say(f"1. Phantom cines of {self.patients} synthetic patients, as the lab would send them")
        done = self.study / "cases.csv"
        if not done.exists():
            shutil.rmtree(self.study, ignore_errors=True)
            workers = str(os.cpu_count() or 1)
            phantoms = ("casebook", "phantoms", str(self.study), "--patients", str(self.patients))
            run((*phantoms, "--seed", str(self.seed), "--workers", workers), self.env)
        found = read_truth(self.study).seed
        if found != self.seed:
            raise ConfigError(
                f"{self.study} was written with seed {found}, this walk asks for seed {self.seed}. "
                f"Give another --home, or --seed {found} to go on with this one"
            )
        say("2. Import: de-identify, render, catalogue")
        command = (
            *("casebook", "import", "csv", str(done), *self.at_home, "--new-only"),
            *("--labels", str(self.labels_path)),
        )
        if run(command, self.env, allowed=(0, DataError.exit_code)):
            self._rule()
            run(command, self.env)
        return phantom_truth(self.study, self.home, self.labels)

    def _rule(self) -> None:
        """Rule on frames held as possible text, as a person would who looks at them.

        No text was ever drawn into a phantom: what is held is the chest's own structure.
        """
        held = read_held(self.home)
        say(f"A person looks at {len(held)} held cases (simulated): there is no text in a phantom")
        for case in held:
            reason = "synthetic: no text was drawn into it"
            run(
                (
                    *("casebook", "deid", "rule", case.held_id, "--clean", "--reason", reason),
                    *self.at_home,
                ),
                self.env,
            )

    def rounds(self, truth: Truth) -> None:
        """All rounds; the stand-in CVAT, once needed, stays up for the next ones."""
        with ExitStack() as around:
            running: list[Services] = []

            def needed() -> Services:
                if not running:
                    running.append(around.enter_context(services(self.home.root, self.env)))
                return running[0]

            for number in ROUNDS:
                self.round(number, truth, needed)

    def round(self, number: int, truth: Truth, needed: Callable[[], Services]) -> None:
        """One round: proposals, experts, corrections, training."""
        chosen = ("--round", str(number), *self.at_home, "--conf", str(self.conf))
        folder = self.home.round_folder(number)
        if number > 1 and not (folder / "annotations.coco.json").exists():
            cvat = needed()
            env = {
                **self.env,
                "ANGIOLOOP_CVAT_URL": cvat.cvat_url,
                "ANGIOLOOP_CVAT_TOKEN": cvat.cvat_token,
            }
            say(f"Round {number}: proposals by the promoted model, into the stand-in CVAT")
            run(("cvatsync", "push", *chosen), env)
            say(f"Round {number}: the simulated expert corrects")
            with Desk(cvat.cvat_url, cvat.cvat_token) as desk:
                expert = Expert(desk, truth, Habits())
                expert.work(f"angioloop {self.labels.name}", lambda text: click.echo(text))
            say(f"Round {number}: corrections back")
            run(("cvatsync", "pull", *chosen), env)
        say(f"Round {number}: train, evaluate, decide, promote, report")
        run(("trainer", "train", *chosen), self.env)

    def control(self) -> AbstractContextManager[None]:
        """The same steps on round 1's data only, beside what comes next: neither needs the other.

        Small networks gain little from a second core, so each takes one.
        """
        say("Control, beside the student: the same number of steps on round 1's data only")
        command = ("trainer", "control", *self.at_home, "--conf", str(self.conf), "--here")
        env = {**self.env, "OMP_NUM_THREADS": "1"}
        return beside(command, env, self.home.root / "rounds" / "control.log")

    def student(self) -> None:
        """Distil, export, check; a student outside its gates is kept, not released."""
        say("Student: distil the promoted teacher, export to ONNX, check parity and gates")
        if Registry(self.home).promoted() is None:
            click.echo("no round's candidate passed the gate: there is no teacher to distil")
            return
        command = ("trainer", "distil", *self.at_home, "--conf", str(self.conf))
        run(command, self.env, allowed=(0, ModelError.exit_code))

    def bundle(self) -> Path | None:
        """The released student, else the one kept outside its gates, else nothing."""
        folder = self.home.models / "released"
        released = Registry(self.home).released()
        if released is not None:
            return folder / released
        kept = sorted(folder.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
        return kept[-1].parent if kept else None

    def measure(self) -> None:
        """The deployment machine's command on files nobody has seen."""
        bundle = self.bundle()
        if bundle is None:
            return
        say("Deployment: angioinfer on unseen DICOM files, boxes as an operator would draw them")
        for name, case in sorted(unseen_truth(self.study).items()):
            out = self.home.root / "infer" / Path(name).stem
            if (out / "qca.json").exists():
                continue
            x1, y1, x2, y2 = case.box_xyxy
            command = (
                *("angioinfer", "run", str(self.study / case.dicom), "--out", str(out)),
                *("--frame", str(case.frame), "--box", f"{x1},{y1},{x2},{y2}"),
                *("--bundle", str(bundle), "--no-gif"),
            )
            run(command, self.env)


def _walk(walk: Walk) -> None:
    clock_path = walk.home.root / "clock.json"
    before = read_document(clock_path, Clock) if clock_path.exists() else Clock()
    started = stopwatch()
    watch = MemoryWatch(walk.home.root)

    def clock() -> Clock:
        return Clock(
            wall_s=before.wall_s + stopwatch() - started,
            peak_rss_mb=max(before.peak_rss_mb, watch.peak_mb),
        )

    try:
        with watch:
            truth = walk.cases()
            walk.rounds(truth)
            with walk.control():
                walk.student()
            if walk.arcade is None:
                walk.measure()
            run(("trainer", "report", *walk.at_home), walk.env)
    finally:
        write_document(clock_path, clock())
    bundle = walk.bundle()
    student = None
    if bundle is not None:
        student = student_row(bundle, released=bundle.name == Registry(walk.home).released())
    qca = None
    if walk.arcade is None:
        unseen = unseen_truth(walk.study)
        rows = measured(walk.home.root / "infer", unseen)
        qca = qca_row(rows, len(unseen))
        say("Measured beside the phantoms' truth")
        for known, mld_mm, ds_pct in rows:
            click.echo(
                f"{Path(known.dicom).name}: MLD {mld_mm:.2f} mm (true {known.lesion.mld_mm:.2f}), "
                f"{ds_pct:.0f} %DS (true {known.lesion.stenosis_pct:.0f})"
            )
    summary, _ = summarise(walk.home, clock(), student, qca)
    say("Result")
    click.echo(table(summary))
    click.echo(f"report: {walk.home.root / 'rounds' / 'report.html'}")
    click.echo(f"figures: {walk.home.root / 'summary.json'}")


@click.command()
@click.option("--home", type=click.Path(path_type=Path), default=Path("workspace/demo"))
@click.option("--conf", type=click.Path(path_type=Path), help="Folder of round-NN.yaml.")
@click.option("--patients", default=44, show_default=True, help="Synthetic patients.")
@click.option("--seed", default=1, show_default=True, help="Of the synthetic patients.")
@click.option("--arcade", type=click.Path(path_type=Path), help="ARCADE's folder, instead.")
def main(home: Path, conf: Path | None, patients: int, seed: int, arcade: Path | None) -> None:
    """Walk through the whole loop; a second run resumes.

    Example: python -m demo.walk --home workspace/demo
    """
    os.chdir(ROOT)
    chosen = conf or ROOT / "conf" / ("arcade" if arcade else "demo")
    try:
        _walk(Walk(home, chosen, patients, seed, arcade))
    except AngioloopError as problem:
        click.echo(f"Error: {problem}", err=True)
        raise SystemExit(problem.exit_code) from None
    except KeyboardInterrupt:
        click.echo("\nStopped; run the same command again to go on from here.", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
