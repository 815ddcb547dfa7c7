"""A run over files: each is analysed, drawn and recorded once; then the tables are written.

Killed at any moment it goes on where it was: a file counts when its record is there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from casebook.documents import Document, sha256_of
from casebook.errors import AngioloopError, ConfigError, DataError
from export.answers import StudentSegmenter
from export.bundle import Bundle
from export.film import player, write_film
from export.findings import Box
from export.infer import Analysis, analyse
from export.outputs import InferReport, drawn_masks, write_coco, write_csv, write_report
from export.pictures import write_pictures, write_segmentation
from export.pointer import Pointer
from export.records import FileProblem, FileRecord, RecordBook
from export.runtime import Crew, OnnxGraphs

_SUFFIXES = {"", ".dcm", ".dicom", ".ima", ".xa"}
_MAGIC_AT = 128
_PROBE_BYTES = 2**16


class Wish(Document):
    """What is asked of every file of a run."""

    box_xyxy: Box | None = None
    inside_xy: tuple[tuple[float, float], ...] = ()
    outside_xy: tuple[tuple[float, float], ...] = ()
    """Points on and beside the vessel to measure, px."""
    frame: int | None = None
    segment: str | None = None
    """Label of the vessel in the box or under the points."""
    film: bool = True
    mp4: bool = False
    """The film as MP4, not as GIF."""
    seg: bool = True


def may_be_dicom(path: Path) -> bool:
    """By its name, or by the four letters every DICOM file carries."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"
    except OSError:  # gone, or not to be read: what it is cannot be told
        return False


def files_in(folder: Path, out: Path) -> Iterator[Path]:
    """Files of a folder that may be DICOM, in order; not our own results."""
    own = out.resolve()
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.is_file() or own in path.resolve().parents:
            continue
        if may_be_dicom(path):
            yield path


def find_files(given: Iterable[Path], out: Path) -> tuple[list[Path], list[FileProblem]]:
    """The files named and those in the folders named, each once; what is missing is a problem."""
    files: dict[Path, None] = {}
    problems: list[FileProblem] = []
    for path in given:
        if path.is_dir():
            inside = dict.fromkeys(files_in(path, out))
            files |= inside
            if not inside:
                problems.append(FileProblem(file=path.name, message="the folder has no DICOM file"))
        elif path.is_file():
            files[path] = None
        else:
            message = f"{path.name} is not there; correct the path or restore it"
            problems.append(FileProblem(file=path.name, message=message))
    return list(files), problems


def check_writable(out: Path) -> None:
    """Make sure results can be written.

    Raises:
        DataError: they cannot; what is done stays done.
    """
    probe = out / ".probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_PROBE_BYTES))
        probe.unlink()
    except OSError as problem:
        raise DataError(
            f"{out}: cannot be written ({problem.strerror}); free some space or give another "
            "--out, and start again: what is done stays done"
        ) from None


@dataclass(frozen=True)
class Run:
    """A student at work for one folder of results."""

    segmenter: StudentSegmenter
    bundle: Bundle
    graphs: OnnxGraphs
    out: Path
    wish: Wish
    book: RecordBook
    pointer: Pointer
    crew: Crew
    """Who draws films."""

    @classmethod
    def open(
        cls,
        segmenter: StudentSegmenter,
        bundle: Bundle,
        graphs: OnnxGraphs,
        out: Path,
        wish: Wish,
        crew: Crew | None = None,
    ) -> "Run":
        """A run into a folder that is there, and may hold what an earlier one did.

        Without a crew films are drawn by the segmenter itself, frame by frame.

        Raises:
            DataError: the segment is no label of the bundle.
            ConfigError: it is given without the box it is about, or an MP4 cannot be written.
        """
        segment = None
        if wish.segment is not None:
            segment = bundle.labels.find(wish.segment)
            if wish.box_xyxy is None and not wish.inside_xy:
                raise ConfigError(
                    "--segment says what the vessel in the box is; give --box too, or --point"
                )
        if wish.outside_xy and wish.box_xyxy is None and not wish.inside_xy:
            raise ConfigError("--outside takes away from a vessel; give its --box or --point too")
        if wish.mp4:
            player()
        files = sorted(bundle.files.items())
        asked = sha256_of(f"{bundle.version}\n{files}\n{wish.model_dump_json()}".encode())
        pointer = Pointer(wish.box_xyxy, wish.inside_xy, wish.outside_xy, segment)
        book, crew = RecordBook(out, asked), crew or Crew(segmenter, 1)
        return cls(segmenter, bundle, graphs, out, wish, book, pointer, crew)

    def take(self, path: Path) -> FileRecord | None:
        """One file: analysed, drawn, recorded. Nothing comes back when it is no longer there."""
        try:
            key = self.book.key_of(path)
        except OSError:
            return None
        name = self.book.name_of(path)
        record = FileRecord(key=key, name=name)
        try:
            analysis = analyse(
                self.segmenter,
                path,
                name,
                pointer=self.pointer,
                frame=self.wish.frame,
            )
            pictures, notes = self._draw(path, analysis)
            result = analysis.result
            record = record.with_(
                result=result.with_(notes=(*result.notes, *notes)),
                masks=drawn_masks(analysis, self.bundle.labels, self.bundle.version),
                pictures=pictures,
            )
        except AngioloopError as problem:
            record = record.with_(problem=FileProblem(file=path.name, message=str(problem)))
        except OSError as problem:
            check_writable(self.out)
            if not path.exists():
                return None
            message = f"{path.name} cannot be read ({problem.strerror}); restore it"
            record = record.with_(problem=FileProblem(file=path.name, message=message))
        self.book.keep(path, record)
        return record

    def _draw(self, path: Path, analysis: Analysis) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the pictures written, and what could not be drawn."""
        names = write_pictures(analysis, self.out)
        notes: tuple[str, ...] = ()
        if self.wish.seg:
            names += write_segmentation(analysis, self.bundle.labels, self.out)
        if self.wish.film:
            try:
                names += write_film(self.crew, path, analysis, self.out, as_mp4=self.wish.mp4)
            except DataError as problem:  # the frame measured is whole; others are not
                notes = (f"no film of the run: {problem}",)
        return names, notes

    def write_tables(
        self, files: list[Path] | None, problems: list[FileProblem], seconds: float
    ) -> None:
        """Tables of some files, or of everything recorded, with what was wrong beside."""

        def records() -> Iterator[FileRecord]:
            yield from self.book.all() if files is None else map(self.book.of, files)
            for number, problem in enumerate(problems):
                yield FileRecord(key="", name=f"problem {number}", problem=problem)

        write_csv(records, self.out)
        write_coco(self.bundle.labels, self.bundle.version, records, self.out)
        report = InferReport(
            model_id=self.bundle.version,
            bundle=self.bundle.version,
            providers=self.graphs.providers,
            threads=self.graphs.threads,
            seconds=seconds,
        )
        write_report(report, records, self.out)


@dataclass
class DropFolder:
    """A folder others put files into: which of them have come to rest.

    A file being copied changes size or time; it is given out once both have stood still.
    """

    folder: Path
    out: Path
    settle_s: float

    def __post_init__(self) -> None:
        """Nothing seen yet."""
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def ready(self, now_s: float) -> list[Path]:
        """Files that have not changed for a while, and were not given out since they did.

        Args:
            now_s: a clock that only goes on.

        Raises:
            DataError: the folder itself is away.
        """
        found: list[Path] = []
        present: dict[Path, tuple[tuple[int, int], float]] = {}
        try:
            paths = sorted(self.folder.rglob("*")) if self.folder.is_dir() else None
        except OSError:
            paths = None
        if paths is None:
            raise DataError(
                f"{self.folder} cannot be listed now; bring it back (a share?), the watch goes on"
            )
        for path in paths:
            try:
                if path.name.startswith(".") or not path.is_file():
                    continue
                status = path.stat()
            except OSError:  # vanished between two looks
                continue
            if self.out.resolve() in path.resolve().parents:
                continue
            stamp = (status.st_size, status.st_mtime_ns)
            before, since_s = self._seen.get(path, (None, now_s))
            if before != stamp:
                since_s = now_s
            elif now_s - since_s >= self.settle_s:
                since_s = float("inf")  # given out: not again until it changes
                if may_be_dicom(path):
                    found.append(path)
            present[path] = (stamp, since_s)
        self._seen = present
        return found
