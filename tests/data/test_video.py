"""Videos: frames, sizes, patches and prompts are those of transformers' Qwen3-VL processor."""

import importlib
import io
import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from g2rpo_jax.data import images, media, tokenizer, video, video_file
from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.processor import Processor

SMALL = video.VideoSettings(
    min_pixels=1024,
    max_pixels=200_000,
    frame_pixels=64 * 64,
    image=images.ImageSettings(patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3),
)


def noise(frames, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def torchvision():
    """What the library takes from torchvision, which has no wheel for torch's CPU build: its resize
    of bytes is torch's own, its normalize two lines."""

    def resize(image, size, interpolation, antialias):
        flat = image.reshape(-1, *image.shape[-3:])
        out = torch.nn.functional.interpolate(
            flat, size=tuple(size), mode="bicubic", antialias=antialias
        )
        return out.reshape(*image.shape[:-2], *size)

    def normalize(image, mean, std, inplace=False):
        mean, std = (torch.as_tensor(x, dtype=image.dtype).view(-1, 1, 1) for x in (mean, std))
        return (image - mean) / std

    modes = SimpleNamespace(LANCZOS="lanczos", BILINEAR="bilinear")
    found = SimpleNamespace(
        InterpolationMode=modes, resize=resize, normalize=normalize, grayscale_to_rgb=lambda x: x
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("video_processing_utils", "image_processing_backends"):
            module = importlib.import_module(f"transformers.{name}")
            patch.setattr(module, "tvF", found, raising=False)
        patch.setattr(module, "pil_torch_interpolation_mapping", {3: "bicubic"}, raising=False)
        yield found


def library_processor(settings):
    """transformers' video processor with the same settings."""
    image = settings.image
    token = (image.patch_size * image.merge_size) ** 2
    return Qwen3VLVideoProcessor(
        size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
        patch_size=image.patch_size,
        merge_size=image.merge_size,
        temporal_patch_size=image.temporal_patch_size,
        image_mean=list(image.mean),
        image_std=list(image.std),
        min_frames=settings.min_frames,
        max_frames=settings.max_frames,
        fps=settings.fps,
        cap_pixels_per_frame=settings.frame_pixels > 0,
        max_video_tokens=settings.frame_pixels // token or 768,
    )


# Which frames, and their size.


@given(
    frames=st.integers(1, 100_000),
    rate=st.sampled_from([1.0, 12.5, 24.0, 30000 / 1001, 60.0]),
    fps=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    most=st.integers(4, 768),
)
def test_the_frames_taken_are_those_of_the_library(frames, rate, fps, most):
    settings = video.VideoSettings(fps=fps, max_frames=most)
    metadata = SimpleNamespace(total_num_frames=frames, fps=rate)
    wanted = library_processor(settings).sample_frames(metadata, fps=fps)
    np.testing.assert_array_equal(video.sample(frames, rate, settings), wanted)


@given(
    frames=st.integers(2, 768),
    height=st.integers(1, 2000),
    width=st.integers(1, 2000),
    low=st.integers(1, 200_000),
    room=st.floats(1, 1000),
    cap=st.sampled_from([0, 64, 768]),
)
def test_the_size_of_frames_is_that_of_the_library(frames, height, width, low, room, cap):
    image = images.ImageSettings(patch_size=16)
    settings = video.VideoSettings(
        min_pixels=low, max_pixels=int(low * room), frame_pixels=cap * 1024, image=image
    )
    processor = library_processor(settings)
    try:
        wanted = processor.get_num_of_video_patches(frames, height, width)
    except ValueError as error:
        assert "aspect ratio" in str(error)
        with pytest.raises(BadRow, match="aspect ratio"):
            video.fitted_size(frames, height, width, settings)
        return
    fitted = video.fitted_size(frames, height, width, settings)
    assert all(edge % 32 == 0 for edge in fitted)
    assert wanted == -(-frames // 2) * fitted[0] * fitted[1] // 256


# Patches and prompts.


@given(frames=st.integers(2, 7), rows=st.integers(1, 3), columns=st.integers(1, 4))
def test_patches_of_frames_that_have_their_size_equal_the_librarys(
    torchvision, frames, rows, columns
):
    clip = video.from_frames(noise(frames, 16 * rows, 16 * columns), SMALL)
    settings = video.VideoSettings(min_pixels=1, max_pixels=10**9, image=SMALL.image)
    pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
    wanted = library_processor(settings)(
        videos=[pixels], do_sample_frames=False, return_tensors="np"
    )
    patches, grid = video.to_patches(clip, settings)
    np.testing.assert_array_equal(patches, wanted["pixel_values_videos"])
    assert patches.dtype == np.float32 and [list(grid)] == wanted["video_grid_thw"].tolist()


def test_resized_frames_differ_from_the_librarys_by_one_level_in_few_places(torchvision):
    # Pillow's filter has weights of 22 bits where torch's has 15.
    clip = video.from_frames(noise(4, 90, 120), SMALL)
    pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
    processor = library_processor(SMALL)
    wanted = processor(videos=[pixels], do_sample_frames=False, return_tensors="np")
    patches, grid = video.to_patches(clip, SMALL)
    assert [list(grid)] == wanted["video_grid_thw"].tolist()
    levels = np.abs(patches - wanted["pixel_values_videos"]) * 127.5
    assert levels.max() < 1.001 and (levels > 0.5).mean() < 0.02


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tokenizer.build(str(path))
    return str(path)


@pytest.fixture(scope="module")
def both(directory, torchvision):
    """(transformers' whole processor, ours) of one directory, with equal limits."""
    from transformers import AutoTokenizer, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    names = ("image_processor_type", "processor_class")
    fields = {k: v for k, v in tokenizer.PREPROCESSOR.items() if k not in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3VLProcessor, "check_argument_for_proper_class", lambda *_: None)
        theirs = Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessorPil(**fields),
            tokenizer=AutoTokenizer.from_pretrained(directory),
            video_processor=library_processor(SMALL),
            chat_template=tokenizer.CHAT_TEMPLATE,
        )
    limits = dict(min_pixels=1024, max_pixels=200_000, frame_pixels=64 * 64)
    return theirs, Processor(directory, video_limits=limits)


def as_library(clip, rate=10):
    """A clip as transformers takes it: a tensor and what is known of its origin."""
    numbers = np.round(clip.seconds * rate).astype(int).tolist()
    metadata = dict(total_num_frames=numbers[-1] + 1, fps=rate, frames_indices=numbers)
    return torch.from_numpy(clip.frames).permute(0, 3, 1, 2), metadata


@pytest.mark.parametrize("frames", [2, 3, 5])
@pytest.mark.parametrize("order", ["v", "iv", "viv", "ivvi"])
def test_prompts_with_videos_equal_those_of_the_qwen3_vl_processor(both, frames, order):
    theirs, ours = both
    content, given, clips = [], [], []
    for i, kind in enumerate(order):
        if kind == "v":
            pixels = noise(frames, 32, 48, seed=i)
            clip = video.Clip(pixels, np.arange(frames) * (0.3 + i), (32, 48))
            clips.append(clip)
            content.append({"type": "video", "video": clip})
        else:
            given.append(Image.fromarray(noise(1, 48, 64, seed=i)[0]))
            content.append({"type": "image", "image": given[-1]})
        content.append({"type": "text", "text": f" and {i}?"})
    messages = [{"role": "user", "content": content}]
    shown = [{k: v for k, v in part.items() if k in ("type", "text")} for part in content]
    text = theirs.apply_chat_template(
        [{"role": "user", "content": shown}], add_generation_prompt=True
    )
    pixels, metadata = zip(*map(as_library, clips), strict=True)
    wanted = theirs(
        text=[text],
        images=given or None,
        videos=list(pixels),
        video_metadata=list(metadata),
        do_sample_frames=False,
        return_tensors="np",
    )
    prompt = ours.encode(messages)
    np.testing.assert_array_equal(prompt.input_ids, wanted["input_ids"][0])
    split = iter(np.split(prompt.pixel_values, prompt.image_grid_thw.prod(1).cumsum()[:-1]))
    found = {"i": [], "v": []}
    for kind in order:
        found[kind].append(next(split))
    np.testing.assert_array_equal(np.concatenate(found["v"]), wanted["pixel_values_videos"])
    if given:
        np.testing.assert_array_equal(np.concatenate(found["i"]), wanted["pixel_values"])
    grids = prompt.image_grid_thw[[kind == "v" for kind in order]]
    np.testing.assert_array_equal(grids, wanted["video_grid_thw"])
    assert [size.kind[0] for size in prompt.media] == list(order)


def encode(processor, clip):
    return processor.encode([{"role": "user", "content": [{"type": "video", "video": clip}]}])


def test_the_outer_marks_can_be_left_out(directory):
    clip = video.from_frames(noise(2, 32, 32), SMALL)
    with_marks, without = (
        Processor(directory, video_limits={"outer_marks": marks}) for marks in (True, False)
    )
    ids = encode(without, clip).input_ids.tolist()
    start, end = (without.token_id(f"<|vision_{edge}|>") for edge in ("start", "end"))
    assert ids.count(start) == ids.count(end) == 1
    outer = encode(with_marks, clip).input_ids.tolist()
    assert outer.count(start) == outer.count(end) == 2 and len(outer) == len(ids) + 2


def test_a_clip_of_one_frame_is_taken(directory):
    prompt = encode(Processor(directory), video.from_frames(noise(1, 64, 64), SMALL))
    assert prompt.image_grid_thw[0][0] == 1
    assert prompt.media[0].frames == 1 and prompt.media[0].seconds == 0


def test_frames_may_be_given_as_an_array_or_as_pictures_with_their_rate(directory):
    processor, frames = Processor(directory), noise(4, 64, 64)
    pictures = [Image.fromarray(frame) for frame in frames]
    a, b = encode(processor, frames), encode(processor, pictures)
    np.testing.assert_array_equal(a.input_ids, b.input_ids)
    np.testing.assert_array_equal(a.pixel_values, b.pixel_values)
    part = {"type": "video", "video": frames, "fps": 0.5}
    slow = processor.encode([{"role": "user", "content": [part]}])
    assert slow.media[0].seconds == 6 and len(slow.input_ids) >= len(a.input_ids)
    for wrong in (
        frames[:0],
        frames.astype(float),
        frames[..., :1],
        [pictures[0], Image.new("L", (3, 3))],
    ):
        with pytest.raises(ValueError, match="a video of frames is|differ in size"):
            encode(processor, wrong)


def test_settings_come_from_the_directory(directory, tmp_path):
    own = video.load_settings(directory, images.load_settings(directory))
    assert own.max_pixels == 24576 * 256 and own.frame_pixels == 768 * 256  # tokens are 16x16
    assert own.image == images.load_settings(directory)
    (tmp_path / "video_preprocessor_config.json").write_text(
        '{"size": {"longest_edge": 25165824, "shortest_edge": 4096}, "patch_size": 16, '
        '"temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], '
        '"image_std": [0.5, 0.5, 0.5], "fps": 1, "max_frames": 64, "cap_pixels_per_frame": false}'
    )
    found = video.load_settings(str(tmp_path), images.ImageSettings())
    assert (found.min_pixels, found.max_pixels, found.frame_pixels) == (4096, 25165824, 0)
    assert (found.fps, found.max_frames) == (1, 64)
    assert found.image.patch_size == 16 and found.image.mean == (0.5, 0.5, 0.5)
    (tmp_path / "video_preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match="video_preprocessor_config.json is not JSON"):
        video.load_settings(str(tmp_path), images.ImageSettings())


# Files.


def write(
    count=60, rate=30, codec="mpeg4", format="mp4", size=(64, 48), gop=12, times=None, **options
):
    """A video's bytes; frame i is grey of level 2 i (mod 200) with a white left edge."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", gop
        for i in range(count):
            pixels = np.full((size[1], size[0], 3), 20 + 2 * i % 200, np.uint8)
            pixels[:, :16] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def read(source, settings=SMALL):
    return video_file.read(source, settings, "f.json row 3: video")


def every_frame(source):
    with av.open(io.BytesIO(source)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


FILES = {
    "mp4": dict(),
    "h264": dict(codec="libx264", gop=30, count=90),
    "open gop": dict(codec="libx264", gop=30, count=300, **{"x264-params": "open-gop=1:bframes=3"}),
    "matroska": dict(codec="libx264", format="matroska"),
    "webm": dict(codec="libvpx", format="webm", count=40, deadline="realtime"),
    "avi": dict(format="avi"),
    "transport": dict(codec="libx264", format="mpegts"),
    "long": dict(count=1500, gop=30),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_frames_of_a_file_are_those_of_decoding_it_all(kind):
    source = write(**FILES[kind])
    settings = video.VideoSettings(max_frames=8, image=SMALL.image, max_pixels=10**6)
    clip = read(source, settings)
    frames = every_frame(source)
    numbers = video.sample(len(frames), 30, settings)
    np.testing.assert_array_equal(clip.seconds, numbers / 30)
    height, width = video.fitted_size(len(numbers), 48, 64, settings)
    wanted = [video.resized(frames[i], height, width, 3) for i in numbers]
    np.testing.assert_array_equal(clip.frames, np.stack(wanted))
    assert clip.size == (48, 64)


def test_a_long_file_is_skipped_through(monkeypatch):
    decoded = []
    place = video_file._Reader._place
    monkeypatch.setattr(
        video_file._Reader, "_place", lambda *args: decoded.append(place(*args)) or decoded[-1]
    )
    clip = read(write(**FILES["long"]), video.VideoSettings(max_frames=8, image=SMALL.image))
    assert len(clip.frames) == 8
    assert len(decoded) < 400  # of 1500


def test_a_path_and_bytes_are_the_same(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(write())
    found = media.open_video(str(path), media.Limits(video=SMALL))
    np.testing.assert_array_equal(found.frames, read(write()).frames)


def test_frames_of_a_variable_rate_are_the_ones_shown_at_their_time():
    # One second of 30 frames, then one frame that stands for two seconds, then one more.
    times = [*range(30), 90, 91]
    source = write(count=32, times=times)
    clip = read(source, video.VideoSettings(image=SMALL.image, min_frames=8))
    with av.open(io.BytesIO(source)) as container:
        shown = [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
    for frame, second in zip(clip.frames, clip.seconds, strict=True):
        wanted = [pixels for time, pixels in shown if time <= second + 0.01][-1]
        wanted = video.resized(wanted, *frame.shape[:2], 3)
        assert np.abs(wanted.astype(int) - frame).max() <= 1


def turned(source, matrix):
    """An mp4 file with another display matrix (a, b, c, d) in its track header."""
    place = source.index(b"tkhd") + 4 + 40
    values = list(struct.unpack(">9i", source[place : place + 36]))
    values[0], values[1], values[3], values[4] = (one << 16 for one in matrix)
    return source[:place] + struct.pack(">9i", *values) + source[place + 36 :]


@pytest.mark.parametrize(
    ("matrix", "edge"),
    [
        ((0, 1, -1, 0), np.s_[:4, :]),  # shown a quarter turn clockwise: left goes up
        ((0, -1, 1, 0), np.s_[-4:, :]),  # counter-clockwise: left goes down
        ((-1, 0, 0, -1), np.s_[:, -4:]),  # upside down: left goes right
        ((1, 0, 0, 1), np.s_[:, :4]),
    ],
)
def test_recordings_of_a_turned_camera_are_set_upright(matrix, edge):
    clip = read(turned(write(size=(96, 48)), matrix))
    assert clip.size == ((48, 96) if matrix[0] else (96, 48))
    for frame in clip.frames:
        assert frame[edge].min() > 190  # the left edge of what was written is white
        assert np.median(frame) < 150


def sound():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


GOOD = write(count=90)
STREAM = write(count=90, codec="libx264", format="matroska")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (b"", "empty_video"),
        (b"<html>404 Not Found</html>" * 9, "not_a_video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n", "not_a_video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not_a_video"),
        (GOOD[:100], "not_a_video"),
        (STREAM[: len(STREAM) // 2], "truncated_video"),
        (sound(), "no_video_stream"),
    ],
    ids=["empty", "page", "playlist", "script", "head", "cut", "sound"],
)
def test_broken_files_have_their_reasons(tmp_path, source, wanted):
    path = tmp_path / "a.mp4"
    path.write_bytes(source)
    for taken in (str(path), source):
        with pytest.raises(BadRow, match="f.json row 3: video") as caught:
            media.open_video(taken, media.Limits(video=SMALL), "f.json row 3")
        assert caught.value.reason == wanted


def test_missing_files_and_folders_have_their_reasons(tmp_path):
    for path, wanted in ((tmp_path / "none.mp4", "missing_video"), (tmp_path, "not_a_file")):
        with pytest.raises(BadRow) as caught:
            media.open_video(str(path), media.Limits())
        assert caught.value.reason == wanted


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        (dict(max_seconds=2.5), "video_too_long"),
        (dict(max_decoded_pixels=10 * 64 * 48), "video_too_long"),
    ],
)
def test_what_would_take_too_long_is_refused(limits, wanted):
    with pytest.raises(BadRow) as caught:
        read(GOOD, video.VideoSettings(image=SMALL.image, **limits))
    assert caught.value.reason == wanted


def test_long_and_large_files_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(video_file._Reader, "_frames", None)
    with pytest.raises(BadRow, match="lasts 3 s; data.video_max_seconds is 2"):
        read(GOOD, video.VideoSettings(max_seconds=2))
    monkeypatch.setattr(video_file, "MOST_FRAME_PIXELS", 64 * 47)
    with pytest.raises(BadRow, match="frames of 64 x 48 pixels"):
        read(GOOD)


@given(data=st.data())
def test_damage_anywhere_gives_a_clip_or_a_bad_row(data):
    source = bytearray(data.draw(st.sampled_from([GOOD, STREAM])))
    for _ in range(data.draw(st.integers(1, 20))):
        source[data.draw(st.integers(0, len(source) - 1))] = data.draw(st.integers(0, 255))
    try:
        clip = read(bytes(source))
        assert len(clip.frames) == len(clip.seconds)
    except BadRow:
        pass
