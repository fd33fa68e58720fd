"""Video files to clips through PyAV, in bounded time and memory.

Frames are resized as they are decoded, so that a long video never stands in memory at full size,
and stretches without a wanted frame are skipped where the file has key frames to jump to. A frame
is found by its time, so files of variable rate give the frame that is shown at the wanted moment;
recordings made with a turned camera are set upright.
"""

import io

import av
import numpy as np

from g2rpo_jax.data import video
from g2rpo_jax.data.example import BadRow

# Containers that hold their pictures themselves. Playlists and scripts (hls, dash, concat, image2),
# which could open other files or the network, are not among them; nor is any protocol but `file`.
OPTIONS = {
    "format_whitelist": "mov,matroska,avi,gif,flv,asf,ogg,ivf,mpeg,mpegts,mpegvideo,h264,hevc,m4v",
    "protocol_whitelist": "file",
}
MOST_FRAME_PIXELS = 2**26
SECONDS_AHEAD = 2.0  # a wanted frame nearer than this is decoded up to, without a look for a jump
SAME = 0.2  # frames this near to a wanted moment, in mean frame lengths, are the wanted ones
BROKEN_PACKETS = 16  # so many undecodable packets are passed over; more, and the file is broken
SILENT_PACKETS = 1000  # so many packets in a row without a picture, likewise
DECODE_THREADS = 2  # a reader runs beside others: all cores, the library's choice, is too many


def read(source: str | bytes, settings: video.VideoSettings, name: str = "video") -> video.Clip:
    """Decodes the sampled frames of a video file, each resized at once.

    Args:
      source: a path, or the file's bytes.
      name: for messages.
    Raises:
      BadRow: not_a_video, no_video_stream (audio only), video_too_long, video_too_large,
        video_aspect, truncated_video, broken_video.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with av.open(file, options=OPTIONS, metadata_errors="replace") as container:
            return _Reader(container, settings, name).clip()
    except BadRow:
        raise
    # How the libraries say that nothing among the allowed formats fits.
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        raise BadRow(
            "not_a_video", f"{name} is no video of a known format, or cut off ({error.strerror})"
        ) from None
    # Damaged files fail anywhere in the libraries behind: FFmpegError, ValueError, MemoryError, ...
    except Exception as error:
        raise BadRow(
            "broken_video", f"{name} cannot be decoded ({type(error).__name__}: {error})"
        ) from None


class _Reader:
    """One open file; `clip` reads it once."""

    def __init__(self, container, settings: video.VideoSettings, name: str):
        self.container, self.settings, self.name = container, settings, name
        # A picture on a sound file is a stream of video, too.
        covers = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & covers]
        if not streams:
            raise self.bad("no_video_stream", "holds no moving picture (sound only?)")
        self.stream = streams[0]
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.thread_count = DECODE_THREADS
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 0)
        if not self.rate > 0:
            raise self.bad("broken_video", "states no frame rate")
        self.start = self.stream.start_time or 0
        self.jumps, self.decoded = True, 0
        self.total = self._count()

    def bad(self, reason: str, what: str) -> BadRow:
        return BadRow(reason, f"{self.name} {what}")

    def _count(self) -> int:
        """Frames of the stream: as the header says, by its duration, or counted without decoding.

        Too long, too large or empty files are refused here, before anything is decoded.
        """
        context = self.stream.codec_context
        if context.width * context.height > MOST_FRAME_PIXELS:
            raise self.bad(
                "video_too_large",
                f"has frames of {context.width} x {context.height} pixels; at most "
                f"{MOST_FRAME_PIXELS} are decoded",
            )
        total = self.stream.frames
        if not total and self.stream.duration:
            total = round(float(self.stream.duration * self.stream.time_base) * self.rate)
        if not total and self.container.duration:
            total = round(self.container.duration / av.time_base * self.rate)
        if not total or total < 0:
            total = sum(packet.size > 0 for packet in self.container.demux(self.stream))
            self.container.seek(0)
        if not total:
            raise self.bad("broken_video", "holds no frame")
        if total / self.rate > self.settings.max_seconds:
            raise self.bad(
                "video_too_long",
                f"lasts {total / self.rate:.0f} s; data.video_max_seconds is "
                f"{self.settings.max_seconds:g}: cut it, or raise the limit",
            )
        return total

    def clip(self) -> video.Clip:
        """The sampled frames, resized."""
        wanted = video.sample(self.total, self.rate, self.settings).tolist()
        try:
            taken = self._take(wanted)
        except _LandedLate:
            self.jumps = False
            self.container.seek(self.start, stream=self.stream)
            taken = self._take(wanted)
        if not taken:
            raise self.bad("broken_video", "gives no frame")
        indices, frames = zip(*taken, strict=True)
        return video.Clip(np.stack(frames), np.array(indices) / self.rate, self.size)

    def _take(self, wanted: list[int]) -> list[tuple[float, np.ndarray]]:
        """(number, resized frame) of each wanted number, in rising order."""
        taken, place, before, jumped = [], -1.0, None, False
        frames = self._frames()
        self._jump(place, wanted[0])
        while len(taken) < len(wanted):
            frame = next(frames, None)
            if frame is None:
                return self._short(taken, place, before)
            place = self._place(frame, place)
            if jumped and place > wanted[len(taken)] + SAME:
                raise _LandedLate
            jumped = False
            while len(taken) < len(wanted) and place >= wanted[len(taken)] - SAME:
                number = wanted[len(taken)]
                # Past the wanted moment, what is shown at it is the frame before.
                shown = frame if place <= number + SAME or before is None else before
                taken.append((number, self._upright(shown)))
            before = frame
            if len(taken) < len(wanted) and self._jump(place, wanted[len(taken)]):
                frames, jumped, before = self._frames(), True, None
        return taken

    def _short(self, taken: list, place: float, before) -> list:
        """What is taken when the file ends early: its last frame stands for the ones missing."""
        if place + 1 < 0.9 * self.total:
            raise self.bad(
                "truncated_video",
                f"ends after {place + 1:.0f} of {self.total} frames; it may be cut off: fetch it "
                "again",
            )
        if before is not None and (not taken or taken[-1][0] < place - SAME):
            taken.append((place, self._upright(before)))
        return taken

    def _place(self, frame, last: float) -> float:
        """Where in the video a frame stands, by its time, in frames of the mean rate."""
        if frame.pts is None:
            self.jumps = False  # without times there is no telling where a jump lands
            return last + 1
        return max(last, float((frame.pts - self.start) * self.stream.time_base) * self.rate)

    def _jump(self, place: float, number: int) -> bool:
        """Moves on to the key frame before frame `number`, if one lies beyond `place`."""
        if not self.jumps or number - place <= SECONDS_AHEAD * self.rate:
            return False
        entries, base = self.stream.index_entries, self.stream.time_base
        # A frame earlier than wanted: key frames are listed by the time of decoding.
        goal = self.start + int((number - 1) / self.rate / base)
        key = entries.search_timestamp(goal, backward=True)
        if key < 0 or (entries[key].timestamp - self.start) * base * self.rate <= place + 1:
            return False
        self.container.seek(goal, stream=self.stream)
        return True

    def _frames(self):
        """Decoded frames from here on."""
        broken = silent = 0
        for packet in self.container.demux(self.stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if isinstance(error, av.error.EOFError):
                    return
                frames, broken = [], broken + 1
            silent = 0 if frames else silent + 1
            if broken > BROKEN_PACKETS or silent > SILENT_PACKETS:
                raise self.bad("broken_video", "has too many parts that cannot be decoded")
            for frame in frames:
                self.decoded += frame.width * frame.height
                if self.decoded > self.settings.max_decoded_pixels:
                    raise self.bad(
                        "video_too_long",
                        "takes too long to decode: more than "
                        f"{self.settings.max_decoded_pixels:g} pixels; cut or shrink it",
                    )
                yield frame

    def _upright(self, frame) -> np.ndarray:
        """The frame's pixels uint8 [height, width, 3], upright and resized."""
        if frame.width * frame.height > MOST_FRAME_PIXELS:
            raise self.bad("video_too_large", f"has frames of {frame.width} x {frame.height}")
        pixels = frame.to_ndarray(format="rgb24")
        pixels = np.rot90(pixels, round(frame.rotation / 90))  # counter-clockwise, both
        if not hasattr(self, "size"):
            self.size = pixels.shape[:2]
            wanted = len(video.sample(self.total, self.rate, self.settings))
            try:
                self.fitted = video.fitted_size(wanted, *self.size, self.settings)
            except ValueError as error:
                raise self.bad("video_aspect", f"is unusable: {error}") from None
        return video.resized(
            np.ascontiguousarray(pixels), *self.fitted, self.settings.image.resample
        )


class _LandedLate(Exception):
    """A jump went past the wanted frame: the file's table of key frames is wrong."""
