"""What can't be decoded is refused by what it is, and damage still as damage."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from tests.support import videos
from tests.support.frames import read
from vidan.errors import InputRejected, RejectedTask
from vidan.video.opening import check_source

ENCRYPTION = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "00112233445566778899aabbccddeeff",
    "encryption_kid": "ffeeddccbbaa99887766554433221100",
}


def webp(path: Path, pictures: int) -> Path:
    first, *others = (Image.fromarray(videos.picture(number)) for number in range(pictures))
    if others:
        first.save(path, save_all=True, append_images=others, duration=40)
    else:
        first.save(path)
    return path


def scrambled(plain: Path, path: Path, size: int = 188) -> Path:
    """The video's packets get random bytes and the flag of a scrambled payload."""
    generator = random.Random(7)
    content = plain.read_bytes()
    packets = []
    for at in range(0, len(content), 188):
        packet = bytearray(content[at : at + 188])
        if (packet[1] & 0x1F) << 8 | packet[2] == 0x100:
            packet[3] = packet[3] & 0xDF | 0x80 | 0x10  # no adaptation field, the even key
            packet[4:] = generator.randbytes(184)
        packets.append(bytes(size - 188) + packet)
    path.write_bytes(b"".join(packets))
    return path


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_an_encrypted_mp4_is_refused_as_encrypted(decoder: str, tmp_path: Path) -> None:
    path = videos.encode(tmp_path / "a.mp4", 30, container_options=ENCRYPTION)
    with pytest.raises(InputRejected, match="is encrypted") as refused:
        check_source(str(path))
    assert refused.value.hint == "decrypt it first"
    with pytest.raises(RejectedTask, match="is encrypted"):
        read(path, decoder=decoder)


@pytest.mark.parametrize("size", [188, 192])
def test_a_scrambled_ts_is_refused_as_encrypted(size: int, tmp_path: Path) -> None:
    plain = videos.encode(tmp_path / "plain.ts", 60)
    path = scrambled(plain, tmp_path / ("a.ts" if size == 188 else "a.m2ts"), size)
    with pytest.raises((InputRejected, RejectedTask), match="encrypted"):
        check_source(str(path))
        read(path)


def test_a_flag_alone_refuses_no_picture_that_can_be_decoded(tmp_path: Path) -> None:
    plain = videos.encode(tmp_path / "plain.ts", 60)
    content = bytearray(plain.read_bytes())
    for at in range(0, len(content), 188):
        content[at + 3] |= 0x80
    path = tmp_path / "a.ts"
    path.write_bytes(content)
    assert read(path).digests == read(plain).digests


def test_an_animated_webp_is_refused_as_what_it_is(tmp_path: Path) -> None:
    path = webp(tmp_path / "a.webp", 5)
    with pytest.raises((InputRejected, RejectedTask), match="animated WebP") as refused:
        check_source(str(path))
        read(path)
    assert "convert it" in str(refused.value.hint)


def test_a_still_webp_is_read(tmp_path: Path) -> None:
    path = webp(tmp_path / "a.webp", 1)
    check_source(str(path))
    assert read(path).numbers == [0]


def test_noise_is_no_encryption(tmp_path: Path) -> None:
    sound = videos.encode(tmp_path / "1.mp4", 30)
    path = videos.damaged(sound, tmp_path / "a.mp4", 20)
    with pytest.raises(RejectedTask, match="can be decoded") as refused:
        read(path)
    assert "copied" in str(refused.value.hint)
