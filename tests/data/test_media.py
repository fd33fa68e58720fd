"""Media files: confined paths, limits before decoding, and a reason for each way to be broken."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from g2rpo_jax.data import media
from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.video import VideoSettings

RNG = np.random.default_rng(0)
LIMITS = media.Limits(max_image_pixels=100_000)


def reason(call, *args, **kwargs):
    """The reason of the BadRow that a call raises."""
    with pytest.raises(BadRow) as caught:
        call(*args, **kwargs)
    assert str(caught.value).startswith("f.json row 3: ")
    return caught.value.reason


@pytest.fixture
def root(tmp_path):
    """A folder of media with another one beside it."""
    (tmp_path / "set" / "coco").mkdir(parents=True)
    (tmp_path / "setting").mkdir()  # begins like the folder's own name
    for place in ("set/a.png", "set/coco/b.png", "setting/c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / place)
    return tmp_path / "set"


def resolve(path, root, allow=False, kind="image"):
    return media.resolve(path, str(root), allow, kind, "f.json row 3")


def test_paths_inside_the_folder_are_found(root):
    for path in ("a.png", "./coco/b.png", "coco/../a.png", "coco//b.png"):
        assert resolve(path, root) == os.path.realpath(root / path)


@pytest.mark.parametrize(
    "path", ["../setting/c.png", "coco/../../setting/c.png", "..", "../none.png", "/etc/passwd"]
)
def test_paths_that_lead_outside_are_refused_whether_they_exist_or_not(root, path):
    assert reason(resolve, path, root) == "path_outside"


def test_links_are_followed_before_the_folder_is_compared(root):
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "outside.png").symlink_to(root.parent / "setting" / "c.png")
    (root / "elsewhere").symlink_to(root.parent / "setting")
    assert resolve("inside.png", root) == str(root / "a.png")
    assert reason(resolve, "outside.png", root) == "path_outside"
    assert reason(resolve, "elsewhere/c.png", root) == "path_outside"
    for path in ("outside.png", "elsewhere/c.png", "../setting/c.png"):
        assert resolve(path, root, allow=True) == str(root.parent / "setting" / "c.png")


def test_a_folder_that_is_a_link_itself_holds_its_files(root):
    (root.parent / "alias").symlink_to(root)
    assert resolve("a.png", root.parent / "alias") == str(root / "a.png")


def test_absolute_paths_need_to_be_allowed(root):
    path = str(root / "a.png")
    assert reason(resolve, path, root) == "path_outside"
    assert resolve(path, root, allow=True) == path


@pytest.mark.parametrize(
    ("path", "kind", "wanted"),
    [
        ("none.png", "image", "missing_image"),
        ("none.mp4", "video", "missing_video"),
        ("coco", "image", "not_a_file"),
        ("", "image", "missing_image"),
        ("a\0.png", "image", "missing_image"),
        ("x" * 5000, "image", "missing_image"),
        ("http://host/a.png", "image", "missing_image"),
    ],
)
def test_what_is_no_file_has_its_reason(root, path, kind, wanted):
    assert reason(resolve, path, root, kind=kind) == wanted


def test_the_root_of_the_file_system_holds_everything():
    assert media.resolve("etc/hostname", "/", kind="image") == os.path.realpath("/etc/hostname")


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "a/../..", "\0"]), max_size=6))
def test_no_path_ever_leads_out(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "fixed"
    (base / "in" / "a").mkdir(parents=True, exist_ok=True)
    (base / "a").write_bytes(b"secret")
    try:
        found = media.resolve("/".join(parts), str(base / "in"))
    except BadRow:
        return
    assert found.startswith(str(base / "in") + os.sep)


# Pictures.


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def corner(mode="RGB", size=(30, 20)):
    """Black with a white upper left corner."""
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).rectangle((0, 0, 9, 4), fill=(255, 255, 255))
    return image.convert(mode)


def open_image(source, limits=LIMITS):
    return media.open_image(source, limits, "f.json row 3")


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "L"),
        ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("WEBP", "RGB"),
        ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "F"), ("TIFF", "I"),
        ("TIFF", "CMYK"), ("PPM", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB"),
    ],
)  # fmt: skip
def test_every_format_and_mode_opens_as_the_same_rgb_picture(tmp_path, format, mode):
    image = corner()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(corner("L")).astype(np.uint16) * 257)
    elif mode in ("F", "I"):
        image = corner("L").convert(mode)
    else:
        image = image.convert(mode)
    (tmp_path / "a").write_bytes(encoded(image, format))
    for source in (str(tmp_path / "a"), encoded(image, format)):
        found = open_image(source)
        assert found.mode == "RGB" and found.size == (30, 20)
        pixels = np.asarray(found).astype(int)
        assert (pixels[1:3, 1:8] > 240).all() and (pixels[8:, 14:] < 15).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_are_undone(orientation):
    # Turned by the opposite of what the tag asks for, so that it stands upright when shown.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = corner() if orientation == 1 else corner().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = open_image(encoded(stored, exif=exif))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(corner()))


def test_damaged_exif_leaves_the_picture_as_it_is():
    found = open_image(encoded(corner(), "JPEG", quality=95, exif=b"Exif\0\0nonsense"))
    assert found.size == (30, 20)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        red, green, blue = open_image(data).getpixel((4, 4))
        assert red > 200 and green < 60 and blue < 60


def test_one_pixel_wide_is_wide_enough():
    assert open_image(encoded(Image.new("RGB", (1, 200)))).size == (1, 200)
    assert open_image(encoded(Image.new("RGB", (1, 1)))).size == (1, 1)
    assert reason(open_image, encoded(Image.new("RGB", (1, 201)))) == "image_aspect"


def claiming(width, height):
    """A PNG whose header claims a size, with next to nothing in it."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_large_pictures_are_refused_by_their_header(monkeypatch):
    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", never)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert reason(open_image, claiming(400, 300)) == "image_too_large"
    wide = media.Limits()
    for size in ((30_000, 30_000), (9_500, 9_500), (9_000, 8_000), (65_500, 65_500)):
        assert reason(open_image, claiming(*size), wide) == "image_too_large"


def test_the_cap_holds_for_opened_pictures_too():
    assert reason(open_image, Image.new("RGB", (400, 300))) == "image_too_large"
    assert open_image(corner("LA")).mode == "RGB"


GOOD = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
JPEG = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "empty_image"),
        (b"<html>404 Not Found</html>", "not_an_image"),
        (b"\0" * 1000, "not_an_image"),
        (GOOD[:10], "not_an_image"),
        (GOOD[: len(GOOD) // 2], "truncated_image"),
        (JPEG[: len(JPEG) // 2], "truncated_image"),
        (GOOD[:60] + b"\xff" * 100 + GOOD[160:], "broken_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "image_mode"),
    ],
)
def test_broken_pictures_have_their_reasons(tmp_path, data, wanted):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert reason(open_image, str(path)) == wanted
    assert reason(open_image, data) == wanted


def test_folders_and_missing_files_have_their_reasons(tmp_path):
    assert reason(open_image, str(tmp_path)) == "not_a_file"
    assert reason(open_image, str(tmp_path / "none.png")) == "missing_image"


@given(data=st.data())
def test_damage_anywhere_gives_a_picture_or_a_bad_row(data):
    source = data.draw(st.sampled_from([GOOD, JPEG, encoded(corner("P"), "GIF")]))
    source = bytearray(source[: data.draw(st.integers(0, len(source)))])
    for _ in range(data.draw(st.integers(0, 8))):
        if source:
            source[data.draw(st.integers(0, len(source) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert open_image(bytes(source)).mode == "RGB"
    except BadRow:
        pass


def test_open_media_opens_everything_of_a_row_in_order(tmp_path):
    corner().save(tmp_path / "a.png")
    row = Example(
        id="1",
        problem="<image><image><video>",
        options=(),
        answer="A",
        problem_type="multiple choice",
        task="ocr",
        data_type="image",
        images=(str(tmp_path / "a.png"), corner(size=(40, 30))),
        videos=((corner(), corner(), corner()),),
        where="f.json row 3",
    )
    opened = media.open_media(row, LIMITS)
    assert [image.size for image in opened.images] == [(30, 20), (40, 30)]
    (clip,) = opened.videos
    assert clip.size == (20, 30) and clip.seconds.tolist() == [0, 0.5, 1]
    assert len(clip.frames) == 3
    mixed = Example(**vars(row) | {"videos": ((corner(), corner(size=(5, 5))),)})
    assert reason(media.open_media, mixed, LIMITS) == "broken_video"


def test_many_frames_are_sampled_and_resized_before_they_are_kept(tmp_path):
    for i in range(40):
        Image.new("RGB", (64, 32), (i, i, i)).save(tmp_path / f"{i}.png")
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(40))
    os.remove(paths[1])  # one that is not taken
    settings = VideoSettings(max_frames=4, frame_pixels=28 * 28, min_pixels=1)
    clip = media.open_video(paths, media.Limits(video=settings))
    assert clip.frames.shape == (4, 28, 28, 3) and clip.size == (32, 64)
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 13, 26, 39]
    assert clip.seconds.tolist() == [0, 6.5, 13, 19.5]
    assert reason(media.open_video, (), LIMITS, "f.json row 3") == "empty_video"
