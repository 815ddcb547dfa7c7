"""The run as a film: the tree in every frame, the vessels in the one that was measured.

A GIF, or with the optional extra `video` an MP4. PyAV is imported only then: its wheels carry GPL
encoders.
"""

import importlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from angio.dicom.read import Cine, cine_of, n_frames_of, open_dataset
from angio.rendering import render_frame
from casebook.documents import write_bytes
from casebook.errors import ConfigError
from casebook.protocols import Frame
from export.answers import StudentSegmenter
from export.infer import Analysis, tree_of
from export.pictures import TREE_RGB, VESSEL_RGB, edge_of
from export.runtime import Crew

SIDE_PX, FRAMES = 512, 120
"""A film is not larger nor longer: of a longer run every second, third … frame is shown."""
_GREYS = 250
"""Entries of a film's palette that are grey; the tree and the vessel follow."""
_FRAME_MS = 67.0
_CHUNK = 8
_CODECS = ("libx264", "mpeg4")
"""The first that PyAV has here."""
_BITS_PER_PIXEL = 2


def player() -> ModuleType:
    """PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError:
        raise ConfigError(
            "--mp4 needs PyAV, which is not installed; `pip install angioloop[infer,video]` brings "
            "it, or leave --mp4 out for a GIF"
        ) from None


def write_film(
    crew: Crew, path: Path, analysis: Analysis, folder: Path, *, as_mp4: bool
) -> tuple[str, ...]:
    """The whole run as an animated GIF or an MP4; nothing is written for a run of one frame.

    Raises:
        DataError: the file cannot be read any more.
        ConfigError: an MP4 is asked for and PyAV is not installed.
    """
    result = analysis.result
    if result.n_frames < 2:
        return ()
    ds = open_dataset(path)
    step = -(-n_frames_of(ds, path.name) // FRAMES)
    wanted = range(result.frame % step, result.n_frames, step)
    shown: list[Image.Image] = []
    with ThreadPoolExecutor(crew.at_once) as pool:
        for start in range(0, len(wanted), _CHUNK):
            cine = cine_of(ds, path.name, wanted[start : start + _CHUNK])
            draw = partial(_drawn, crew.segmenter, analysis, cine)
            shown += pool.map(draw, range(len(cine.frames)))
    duration_ms = max(20, round((analysis.frame_ms or _FRAME_MS) * step))
    name = f"{result.case_id}.cine.{'mp4' if as_mp4 else 'gif'}"
    if as_mp4:
        payload = _mp4(shown, duration_ms)
    else:
        payload = _gif(shown, duration_ms, wanted.index(result.frame))
    write_bytes(folder / name, payload)
    return (name,)


def _drawn(
    segmenter: StudentSegmenter, analysis: Analysis, cine: Cine, position: int
) -> Image.Image:
    """One frame with its tree; the one that was measured as it was found."""
    if cine.frames[position] == analysis.result.frame:
        return _still(analysis.pixels, analysis.tree, analysis.vessels)
    pixels = render_frame(cine, position)
    found = None
    if analysis.tree is not None:
        found = tree_of(segmenter, segmenter.embed(Frame(pixels)))
    return _still(pixels, found.bitmap if found else None, ())


def _gif(shown: Sequence[Image.Image], duration_ms: int, analysed: int) -> bytes:
    """All frames in the colours of a few: a palette for each would take most of the time.

    Args:
        shown: The frames.
        duration_ms: Of each.
        analysed: Position of the one that is drawn in all colours.
    """
    some = [shown[at].convert("RGB") for at in (0, analysed, len(shown) // 2, len(shown) - 1)]
    width, height = some[0].size
    sheet = Image.new("RGB", (width, height * len(some)))
    for row, still in enumerate(some):
        sheet.paste(still, (0, row * height))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    plain = [
        still.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for still in shown
    ]
    stream = io.BytesIO()
    plain[0].save(
        stream,
        "GIF",
        save_all=True,
        append_images=plain[1:],
        duration=duration_ms,
        loop=0,
        optimize=False,
    )
    return stream.getvalue()


def _mp4(shown: Sequence[Image.Image], duration_ms: int) -> bytes:
    av = player()
    stream = io.BytesIO()
    width, height = (side + side % 2 for side in shown[0].size)  # the codecs want even sides
    codec = next(name for name in _CODECS if name in av.codecs_available)
    with av.open(stream, "w", format="mp4") as film:
        track = film.add_stream(codec, rate=Fraction(1000, duration_ms))
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        track.bit_rate = int(width * height * _BITS_PER_PIXEL * 1000 / duration_ms)
        for still in shown:
            picture = Image.new("RGB", (width, height))
            picture.paste(still.convert("RGB"))
            for packet in track.encode(av.VideoFrame.from_image(picture)):
                film.mux(packet)
        for packet in track.encode():
            film.mux(packet)
    return stream.getvalue()


def _palette() -> bytes:
    greys = [(value,) * 3 for value in np.linspace(0, 255, _GREYS).round().astype(int).tolist()]
    colours = [*greys, TREE_RGB, VESSEL_RGB]
    return bytes(part for colour in colours for part in colour)


def _still(
    pixels: UInt8[np.ndarray, "h w"],
    tree: Bool[np.ndarray, "h w"] | None,
    vessels: tuple[Bool[np.ndarray, "h w"], ...],
) -> Image.Image:
    """One picture of a film, with its palette."""
    step = -(-max(pixels.shape) // SIDE_PX)
    kept = np.ascontiguousarray(pixels[::step, ::step])
    shown = (kept.astype(np.uint16) * (_GREYS - 1) // 255).astype(np.uint8)
    for bitmap, colour in [(tree, _GREYS), *((one, _GREYS + 1) for one in vessels)]:
        if bitmap is not None:
            shown[edge_of(np.ascontiguousarray(bitmap[::step, ::step]))] = colour
    image = Image.fromarray(shown, "P")
    image.putpalette(_palette())
    return image
