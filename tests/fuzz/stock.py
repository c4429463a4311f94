"""The undamaged videos from which the fuzzer begins, in many codecs and containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.support import videos

EXACT = {"fflags": "+bitexact"}
"""The file gets no random number and no version, so that the same seed gives the same bytes."""


@dataclass(frozen=True)
class Recipe:
    """How an undamaged video is made."""

    codec: str
    suffix: str
    options: Mapping[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (videos.WIDTH, videos.HEIGHT)
    container: str | None = None


X264 = {"x264-params": videos.X264["x264-params"] + ":qp=25:weightp=0"}
"""Without rate control and weights, whose results differ from run to run."""
X265 = {"x265-params": "log-level=none:pools=none:frame-threads=1:keyint=20"}
VPX = {"deadline": "good", "cpu-used": "4", "g": "20", "threads": "1"}
AV1 = {"preset": "12", "svtav1-params": "lp=1:keyint=20"}
SHORT = {"g": "12"}

RECIPES: Sequence[Recipe] = (
    *(Recipe("libx264", suffix, X264) for suffix in ("mp4", "mkv", "ts", "mov", "flv")),
    Recipe("libx264", "avi", {"x264-params": "bframes=0:keyint=20:threads=1:qp=25:weightp=0"}),
    Recipe("libx264", "264", X264, container="h264"),
    Recipe("libx265", "mp4", X265),
    Recipe("libx265", "mkv", X265),
    Recipe("libx265", "265", X265, container="hevc"),
    *(Recipe("mpeg4", suffix, SHORT) for suffix in ("avi", "mp4", "mkv")),
    Recipe("mpeg2video", "ts", SHORT),
    Recipe("mpeg2video", "mpg", SHORT),
    Recipe("mjpeg", "avi", pix_fmt="yuvj420p"),
    Recipe("mjpeg", "mov", pix_fmt="yuvj420p"),
    Recipe("libvpx", "webm", VPX),
    Recipe("libvpx-vp9", "webm", VPX),
    Recipe("libvpx-vp9", "mp4", VPX),
    Recipe("libsvtav1", "mp4", AV1),
    Recipe("libsvtav1", "mkv", AV1),
    Recipe("ffv1", "mkv"),
    Recipe("huffyuv", "avi", pix_fmt="yuv422p"),
    Recipe("rawvideo", "avi"),
    Recipe("prores", "mov", pix_fmt="yuv422p10le"),
    Recipe("png", "mov", pix_fmt="rgb24"),
    Recipe("wmv2", "wmv", SHORT, container="asf"),
    Recipe("flv", "flv", SHORT),
    Recipe("h263", "3gp", SHORT, size=(128, 96)),
    Recipe("gif", "gif", pix_fmt="rgb8"),
)


class Stock:
    """The undamaged videos of a seed, each made when it is first needed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed

    def one(self, random: Random, *suffixes: str, codec: str | None = None) -> Path:
        """Return a video, with one of these suffixes and with this codec if they are given."""
        fit = [
            recipe
            for recipe in RECIPES
            if (not suffixes or recipe.suffix in suffixes) and codec in (None, recipe.codec)
        ]
        return self.made(random.choice(fit))

    def made(self, recipe: Recipe) -> Path:
        """Return the video of a recipe; its length depends on the seed."""
        frames = Random(f"{self._seed} {recipe.codec} {recipe.suffix}").randint(24, 60)

        os.environ.setdefault("SVT_LOG", "1")  # only errors

        def encode(path: Path) -> Path:
            return videos.encode(
                path,
                frames,
                codec=recipe.codec,
                options=recipe.options,
                width=recipe.size[0],
                height=recipe.size[1],
                container=recipe.container,
                container_options=EXACT,
                pix_fmt=recipe.pix_fmt,
            )

        return self.kept(f"{recipe.codec}.{recipe.suffix}", encode)

    def kept(self, name: str, make: Callable[[Path], Path]) -> Path:
        """Return the file of this name, which is made if it does not exist."""
        path = self._folder / name
        if not path.exists():
            make(path)
        return path
