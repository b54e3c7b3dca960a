"""The floor of `pipeline.py`: decode a video and encode it again with the given settings, and nothing else.

    python benchmarks/transcode.py INPUT OUTPUT [--codec libx264] [--preset veryfast] [--crf 18] [--bf 0]

Imports nothing but PyAV, scales nothing, converts no colours, and leaves the sound out.
"""

import argparse

import av


def transcode(source: str, target: str, codec: str, settings: dict[str, str]) -> None:
    """Decode the picture of `source`, and encode it into `target`."""
    with av.open(source) as container, av.open(target, "w") as output:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        stream = None
        for frame in container.decode(video):
            if stream is None:
                stream = output.add_stream(codec, rate=video.average_rate, options=settings)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                stream.codec_context.time_base = video.time_base
            frame.pict_type = 0  # else the encoder repeats the source's choice of key frames
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))


def main() -> None:
    """Transcode what the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("source")
    arguments.add_argument("target")
    arguments.add_argument("--codec", default="libx264")
    arguments.add_argument("--preset", default="veryfast")
    arguments.add_argument("--crf", default="18")
    arguments.add_argument("--bf")
    chosen = arguments.parse_args()
    settings = {"preset": chosen.preset, "crf": chosen.crf}
    if chosen.bf is not None:
        settings["bf"] = chosen.bf
    transcode(chosen.source, chosen.target, chosen.codec, settings)


if __name__ == "__main__":
    main()
