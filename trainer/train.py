"""The training step: an adapter on all cases so far, registered with its card."""

import json
from datetime import UTC, datetime
from pathlib import Path

from casebook.documents import read_document, sha256_of, write_document
from casebook.errors import DataError, StateError
from casebook.home import Home
from casebook.leaks import find_leaks
from casebook.registry import ModelCard
from casebook.rounds import RoundFolder
from segmenter.fit import Progress, TrainConfig
from segmenter.ranks import processes_for
from segmenter.rounds import RoundResult, train_adapter
from segmenter.samples import Sample
from trainer.chain import check_ready
from trainer.provenance import commit, constraints_sha256
from trainer.ranks import train_together
from trainer.results import Candidate
from trainer.samples import (
    TrainingSet,
    annotation_digests,
    training_set,
    undrawn,
    validation_set,
)
from trainer.teachers import base_folder, base_id, incumbent_id
from trainer.work import Work

LICENCE = (
    "Adapter weights: Apache-2.0 where the base allows it; the base's model code and any weights "
    "made with the real SAM 3 are under the SAM License."
)


def train(work: Work) -> str:
    """Train the round's candidate, once.

    Raises:
        StateError: the round has not been pulled, or candidate.json is of other annotations.
    """
    folder = work.folder
    check_ready(folder)
    rounds = tuple(range(1, folder.number + 1))
    digests = annotation_digests(folder.home, rounds)
    if folder.has("candidate.json"):
        return _kept(folder, digests)
    folder.manifest().check_leaks()
    incumbent = incumbent_id(work)
    init_from = base_id(work) if folder.number == 1 or work.config.init == "base" else incumbent
    data = training_set(
        folder.home,
        work.catalogue,
        rounds,
        folder.manifest().labels,
        work.config.weights,
        measured=work.config.train.heads is not None,
        replay=work.config.replay,
        lesion_in_text=work.config.lesion_in_text,
    )
    missing = undrawn(data, folder.manifest().labels)
    if missing:
        work.progress("train", f"nobody drew {', '.join(missing)} so far: not learnt")
    config = work.config.model_dump(mode="json", exclude={"labels", "evaluate"})
    identity = [folder.manifest_sha256(), *digests, init_from, json.dumps(config, sort_keys=True)]
    model_id = f"round-{folder.number:02d}-{sha256_of('|'.join(identity).encode())[:8]}"
    check_apart(folder.home)
    directory = folder.file(f"training/{model_id}")
    result = run(
        work, rounds, data, work.config.train, init_from, directory, replay=work.config.replay
    )
    card = card_of(work, model_id, result, data, parents=(init_from,))
    register(work, card, result)
    candidate = Candidate(
        round=folder.number,
        model_id=model_id,
        incumbent=base_id(work) if folder.number == 1 else incumbent,
        init_from=init_from,
        base=base_id(work),
        manifest_sha256=folder.manifest_sha256(),
        annotations_sha256=digests,
        rounds=rounds,
        images=len(data.samples),
        rejected=data.rejected,
        masks_by_origin=data.masks_by_origin,
        steps=result.fit.steps,
        seconds=result.fit.seconds,
        figures=dict(result.fit.figures),
        config=config,
        created=datetime.now(UTC),
    )
    write_document(folder.file("candidate.json"), candidate)
    return f"{model_id}: {result.fit.steps} steps in {result.fit.seconds:.0f} s"


def check_apart(home: Home) -> None:
    """Refuse to train where something that trains is also scored, by patient or by pixels.

    Raises:
        DataError: names the pseudonyms or the pixels' hashes, and the cases.
    """
    found = [leak for leak in find_leaks(home).leaks if leak.kind != "pixels of two patients"]
    if found:
        shown = "; ".join(str(leak) for leak in found[:3])
        raise DataError(
            f"what trains is also scored in {len(found)} places: {shown}. Take these cases out of "
            "one of the two (`casebook check` lists all)"
        )


def _kept(folder: RoundFolder, digests: tuple[str, ...]) -> str:
    candidate = read_document(folder.file("candidate.json"), Candidate)
    same = candidate.annotations_sha256 == digests
    if not same or candidate.manifest_sha256 != folder.manifest_sha256():
        raise StateError(
            f"round {folder.number:02d}: candidate.json was trained on other annotations than "
            f"those there now. Run `trainer train --round {folder.number} --force`"
        )
    return f"{candidate.model_id} is there"


def run(
    work: Work,
    rounds: tuple[int, ...],
    data: TrainingSet,
    config: TrainConfig,
    init_from: str,
    directory: Path,
    *,
    step: str = "train",
    vessel: str | None = None,
    replay: float = 1.0,
) -> RoundResult:
    """Train an adapter in a directory, telling whoever follows; resumes what is there.

    Args:
        rounds: The rounds the data are of: further processes read them themselves …
        vessel: … and only cases of this vessel.
        replay: … with this weight on all but the last round's.
    """
    parent = None
    if init_from != base_id(work):
        work.registry.verify(init_from)
        parent = work.registry.folder(init_from)

    def tell(progress: Progress) -> None:
        figures = {name: float(value) for name, value in progress.figures.items()}
        loss = figures.get("mask", figures.get("loss", 0.0))
        of = f" of {progress.steps}" if progress.steps else ""
        work.progress(
            step,
            f"step {progress.step}{of}, loss {loss:.3f}",
            min(progress.fraction, 0.99),
            {"step": float(progress.step), "loss": loss, "seconds": progress.seconds},
        )

    processes = processes_for(config.processes)
    if processes > 1:
        return train_together(
            work,
            rounds,
            config,
            parent,
            directory,
            processes,
            tell,
            vessel=vessel,
            replay=replay,
        )
    return train_adapter(
        data.samples,
        config,
        base=base_folder(work),
        init_adapter=parent,
        directory=directory,
        progress=tell,
        validation=watched(work, config, vessel),
    )


def watched(work: Work, config: TrainConfig, vessel: str | None = None) -> tuple[Sample, ...]:
    """The frozen validation cases by which a training stops early; none where it does not."""
    if config.stop is None:
        return ()
    return validation_set(work.folder.manifest(), work.catalogue, vessel)


def card_of(
    work: Work, model_id: str, result: RoundResult, data: TrainingSet, parents: tuple[str, ...]
) -> ModelCard:
    """The card of a trained adapter."""
    config = work.config
    return ModelCard(
        model_id=model_id,
        kind="teacher",
        architecture=f"SAM 3 ({base_id(work)}) + {_tuned(config.train)}",
        base=base_id(work),
        base_sha256=result.base_sha256,
        parents=parents,
        round=work.folder.number,
        created=datetime.now(UTC),
        n_params=result.n_params,
        n_trainable=result.n_trainable,
        data={
            "manifest_sha256": work.folder.manifest_sha256(),
            "images": len(data.samples),
            "rejected": data.rejected,
            **{f"masks_{origin}": count for origin, count in data.masks_by_origin.items()},
        },
        config=config.train.model_dump(mode="json"),
        seed=config.train.seed,
        commit=commit(),
        constraints_sha256=constraints_sha256(),
        licence=LICENCE,
    )


def _tuned(config: TrainConfig) -> str:
    """What a training changes, in words."""
    names = {"lora": f"LoRA r {config.lora.rank}", "decoder": "its decoders", "full": "all weights"}
    return names[config.strategy]


def register(work: Work, card: ModelCard, result: RoundResult) -> None:
    """Put the adapter into the registry and drop the checkpoints, keeping the curves."""
    files = {path.name: path.read_bytes() for path in result.folder.iterdir() if path.is_file()}
    work.registry.add(card, files)
    for path in result.folder.parent.glob("checkpoints/step-*.safetensors"):
        path.unlink()
