"""Fuzzed files that are not videos."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from random import Random

import av

from tests.fuzz.kinds import Kind, write
from tests.fuzz.stock import EXACT, Stock
from tests.support import videos


def no_frames(random: Random, stock: Stock, stem: Path) -> Path:
    """A header without any picture."""
    path = stem.with_suffix(random.choice([".mp4", ".mkv", ".avi", ".mov"]))
    with av.open(str(path), "w", options=EXACT) as output:
        stream = output.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = videos.WIDTH, videos.HEIGHT, "yuv420p"
        output.start_encoding()
    return path


def empty(random: Random, stock: Stock, stem: Path) -> Path:
    return write(stem, random.choice(["mp4", "mkv", "ts", "264"]), b"")


def sound_only(random: Random, stock: Stock, stem: Path) -> Path:
    return videos.sound_only(stem.with_suffix(random.choice([".m4a", ".aac", ".mp4"])))


def words(random: Random, stock: Stock, stem: Path) -> Path:
    subtitles = b"1\n00:00:01,000 --> 00:00:02,000\nGood morning.\n\n"
    content, suffix = random.choice(
        [
            (b"This is no video.\n" * 50, "mp4"),
            (subtitles * 5, "srt"),
            (subtitles * 5, "mkv"),
            (b"<html><body>404 Not Found</body></html>", "mp4"),
            (b'{"error": "not found"}', "webm"),
            (b"\n", "mp4"),
            (b"\x00", "ts"),
        ]
    )
    return write(stem, suffix, content)


def image(random: Random, stock: Stock, stem: Path) -> Path:
    codec, suffix, pix_fmt = random.choice(
        [("mjpeg", "jpg", "yuvj420p"), ("png", "png", "rgb24"), ("libwebp", "webp", "yuv420p")]
    )
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = videos.WIDTH, videos.HEIGHT, pix_fmt
    encoder.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(videos.picture(0), "rgb24").reformat(format=pix_fmt)
    content = b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)])
    return write(stem, random.choice([suffix, "mp4"]), content)


def noise(random: Random, stock: Stock, stem: Path) -> Path:
    suffix = random.choice(["mp4", "mkv", "avi", "ts", "flv", "264", "bin"])
    size = random.choice([1, 10, 188, 1000, 50_000, 400_000])
    return write(stem, suffix, random.randbytes(size))


def noise_with_magic(random: Random, stock: Stock, stem: Path) -> Path:
    """The bytes by which a container is recognised, and then noise."""
    magic, suffix = random.choice(
        [
            (struct.pack(">I", 24) + b"ftypisom\0\0\2\0isommp42", "mp4"),
            (b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x23\x42\x86\x81\x01\x42\x82\x84webm", "webm"),
            (b"RIFF\xff\xff\xff\xffAVI LIST", "avi"),
            (b"FLV\x01\x05\0\0\0\x09\0\0\0\0", "flv"),
            (b"\x47\x40\0\x10\0\0\xb0\x0d" * 3, "ts"),
            (b"\0\0\0\1\x67\x64\0\x1f", "264"),
            (b"\0\0\1\xba\x44\0\4\0\4\1", "mpg"),
            (b"DKIF\0\0\x20\0VP80", "ivf"),
            (b"OggS\0\2", "ogv"),
            (b"GIF89a\xff\xff\xff\xff", "gif"),
            (b"YUV4MPEG2 W65535 H65535 F1:0 Ip A0:0 C420\nFRAME\n", "y4m"),
        ]
    )
    return write(stem, suffix, magic + random.randbytes(random.choice([0, 100, 20_000])))


def playlist(random: Random, stock: Stock, stem: Path) -> Path:
    """Lists of other files, which must neither be opened nor be waited for."""
    content, suffix = random.choice(
        [
            ("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "m3u8"),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///dev/zero\n", "mp4"),
            ("ffconcat version 1.0\nfile /dev/zero\n", "txt"),
            ("ffconcat version 1.0\nfile file.mp4\n" * 3, "mp4"),
            ("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
             "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n", "sdp"),
            ('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>', "mpd"),
        ]
    )  # fmt: skip
    return write(stem, suffix, content.encode())


KINDS: dict[str, Kind] = {
    "no-frames": no_frames,
    "empty": empty,
    "sound-only": sound_only,
    "words": words,
    "image": image,
    "noise": noise,
    "noise-with-magic": noise_with_magic,
    "playlist": playlist,
}
