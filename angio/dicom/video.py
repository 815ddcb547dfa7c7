"""Frames of MPEG-2, H.264 and H.265 pixel data, through the optional extra `video`.

PyAV is imported only when such a file is read: its wheels carry GPL encoders.
"""

import importlib
import io
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from casebook.errors import ConfigError

_MPEG2, _H264, _H265 = "mpeg2video", "h264", "hevc"
VIDEO = {
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in ("100", "100.1", "101", "101.1")), _MPEG2),
    **dict.fromkeys(
        (
            f"1.2.840.10008.1.2.4.{n}{part}"
            for n in ("102", "103", "104", "105", "106")
            for part in ("", ".1")
        ),
        _H264,
    ),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in ("107", "108")), _H265),
}
"""Codec of each video transfer syntax. Source: DICOM PS3.6 A.1."""


def _player() -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError:
        raise ConfigError(
            "the file is video, which needs PyAV; install the extra: pip install angioloop[video]"
        ) from None


def video_frames(
    coded: bytes, syntax: str, hw: tuple[int, int], n_frames: int, frames: Sequence[int]
) -> Iterator[UInt8[np.ndarray, "h w"]]:
    """The luma of some frames, spread to the full range of 8 bits.

    The whole stream is decoded, so that a wrong number of frames is noticed, if only after those
    asked for have been given. Frames are kept in memory only where they are asked for out of order.

    Args:
        coded: The stream.
        syntax: Its transfer syntax.
        hw: Height and width the header declares.
        n_frames: Frames the header declares.
        frames: Counted from 0.

    Raises:
        ConfigError: PyAV is not installed.
        ValueError: the stream is damaged, or not what the header declares.
    """
    av = _player()
    kept: dict[int, UInt8[np.ndarray, "h w"]] = {}
    wanted, seen = set(frames), 0
    in_order = list(frames) == sorted(wanted)
    try:
        with av.open(io.BytesIO(coded), mode="r") as container:
            stream = container.streams.video[0]
            name, size = stream.codec_context.name, (stream.height, stream.width)
            if name != VIDEO[syntax] or size != hw:
                raise ValueError(f"video is {name} of {size} px; expected {VIDEO[syntax]} of {hw}")
            for picture in container.decode(stream):
                if seen >= n_frames or (picture.height, picture.width) != hw:
                    raise ValueError(f"video has more than the {n_frames} frames declared")
                if seen in wanted:
                    grey = picture.to_ndarray(format="gray")
                    if in_order:
                        yield grey
                    else:
                        kept[seen] = grey
                seen += 1
    except av.FFmpegError as problem:
        raise ValueError(f"video cannot be decoded: {problem.strerror}") from None
    if seen != n_frames:
        raise ValueError(f"video has {seen} frames; the header says {n_frames}")
    if not in_order:
        for frame in frames:
            yield kept[frame]
