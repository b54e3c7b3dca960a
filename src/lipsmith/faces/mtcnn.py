"""MTCNN: three small networks, each looking closer at what the one before let through.

Method: Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks"
(2016). The weights are the arrays in the `mtcnn` wheel (MIT); its TensorFlow code is never imported. The
networks run as OpenVINO models built here, and the cascade between them is array code.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.engine import compile_on_cpu, import_openvino
from lipsmith.errors import RuntimeUnavailableError, UsageError
from lipsmith.faces.detect import Detection
from lipsmith.geometry import Box, Image, resize

Array = NDArray[np.float32]

PROPOSAL_CELL = 12  # side of the window that the proposal network sees
PROPOSAL_STRIDE = 2
REFINE_SIZE = 24
OUTPUT_SIZE = 48
PYRAMID_FACTOR = 0.709  # about 1/√2: each level halves the area
MAX_PROPOSALS = 600  # a busy texture must not make the pairwise overlaps explode
_NETWORKS_VERSION = 1  # to be raised when `_build_proposal` and its like build other networks
_LOOKS = 2  # of the output network at a face that is followed, as at one that was searched for
MIN_DETECTABLE = 12  # pixels; nothing smaller can fill the proposal network's window


@dataclass
class MtcnnDetector:
    """MTCNN on the CPU through OpenVINO.

    Boxes and landmarks come back in pixels of the image that was given. Networks are compiled at the first image.

    Attributes:
        short_side: Pixels of the shorter side in which faces are looked for: larger images are halved as long as this
            much is left, and the smallest face grows with what is more; larger finds smaller faces, slower.
        min_face: Side of the smallest face looked for, in pixels of an image of `short_side` or less, at least 12.
        thresholds: Least scores of the proposal, the refinement and the output network, 0 to 1.
        threads: CPU threads for the networks; None lets OpenVINO decide.
    """

    short_side: int = 480
    min_face: float = 40.0
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.8)
    threads: int | None = 1
    name: str = field(default="mtcnn", init=False)

    def __post_init__(self) -> None:
        if self.short_side < MIN_DETECTABLE or self.min_face < MIN_DETECTABLE:
            raise UsageError(
                f"The detector's short side ({self.short_side}) and smallest face ({self.min_face}) must be "
                f"at least {MIN_DETECTABLE} pixels."
            )
        self._one_call = Lock()  # of the networks

    def detect(self, image: Image) -> list[Detection]:
        """Faces in `image` (uint8 BGR, height × width × 3), the most certain first."""
        halvings = _halvings(image)
        while len(halvings) > 1 and min(halvings[1].shape[:2]) >= self.short_side:
            halvings = halvings[1:]
        # Odd sides are stretched by a fraction of a pixel: map each axis back by its own factor.
        back = np.array([image.shape[1] / halvings[0].shape[1], image.shape[0] / halvings[0].shape[0]])

        boxes, scores = self._propose(halvings)
        boxes, scores = self._refine(halvings, boxes)
        boxes, scores, landmarks = self._output(halvings, boxes)
        return _detections(boxes, scores, landmarks, back)

    def look_again(self, image: Image, near: Box) -> Detection | None:
        """The face of which an earlier image said `near`, without a search; None where none is certain.

        `image` need only show the box and its surroundings.
        """
        halvings = _halvings(image)
        boxes = np.array([[near.left, near.top, near.right, near.bottom]], np.float32)
        for _ in range(_LOOKS):
            boxes, points, scores = self._look_closely(halvings, boxes)
            if scores[0] <= self.thresholds[2]:
                return None
        return _detections(boxes, scores, points, np.ones(2))[0]

    @cached_property
    def _networks(self) -> dict[str, Any]:
        """Name → inference request of a compiled OpenVINO model."""
        builders = {"pnet": _build_proposal, "rnet": _build_refinement, "onet": _build_output}
        known_by = f"mtcnn {_NETWORKS_VERSION} {_version_of_weights()}"
        return {
            name: compile_on_cpu(
                partial(_build, build, name), threads=self.threads, known_by=f"{known_by} {name}"
            ).create_infer_request()
            for name, build in builders.items()
        }

    def prepare(self) -> None:
        """Compile the networks now, not at the first image."""
        with self._one_call:
            assert self._networks

    def _run(self, network: str, images: Image) -> list[Array]:
        """What `network` answers to n × h × w × 3 BGR, uint8."""
        with self._one_call:
            request = self._networks[network]
            request.infer([np.ascontiguousarray(images)], share_inputs=True)
            return [tensor.data.copy() for tensor in request.output_tensors]

    def _propose(self, halvings: list[Image]) -> tuple[Array, Array]:
        """Boxes (n, 4) and scores (n,) of windows that may hold a face, over all sizes."""
        rows, columns = halvings[0].shape[:2]
        boxes, scores = [], []
        min_face = self.min_face * max(1.0, min(rows, columns) / self.short_side)
        for scale in _pyramid_scales(rows, columns, min_face):
            width, height = int(np.ceil(columns * scale)), int(np.ceil(rows * scale))
            # From the nearest larger halving: as free of aliasing as from the full image, and cheaper.
            level = min(max(int(np.floor(-np.log2(scale))), 0), len(halvings) - 1)
            offsets, faceness = self._run("pnet", resize(halvings[level], width, height)[None])
            found_rows, found_columns = np.nonzero(faceness[0, 1] > self.thresholds[0])
            corner = np.stack([found_columns, found_rows], axis=1).astype(np.float32) * PROPOSAL_STRIDE
            windows = np.concatenate([corner, corner + PROPOSAL_CELL], axis=1)
            windows += offsets[0][:, found_rows, found_columns].T * PROPOSAL_CELL
            windows /= np.array([width / columns, height / rows] * 2, np.float32)
            score = faceness[0, 1][found_rows, found_columns]
            keep = suppress(windows, score, 0.5)
            boxes.append(windows[keep])
            scores.append(score[keep])
        all_boxes = np.concatenate(boxes) if boxes else np.empty((0, 4), np.float32)
        all_scores = np.concatenate(scores) if scores else np.empty(0, np.float32)
        keep = suppress(all_boxes, all_scores, 0.7)
        return all_boxes[keep], all_scores[keep]

    def _refine(self, halvings: list[Image], boxes: Array) -> tuple[Array, Array]:
        boxes = _squared(boxes)
        if len(boxes) == 0:
            return boxes, np.empty(0, np.float32)
        offsets, faceness = self._run("rnet", _sample(halvings, boxes, REFINE_SIZE))
        passed = faceness[:, 1] > self.thresholds[1]
        boxes, scores = _shifted(boxes, offsets)[passed], faceness[passed, 1]
        keep = suppress(boxes, scores, 0.7)
        return boxes[keep], scores[keep]

    def _output(self, halvings: list[Image], boxes: Array) -> tuple[Array, Array, Array]:
        boxes, points, scores = self._look_closely(halvings, boxes)
        passed = scores > self.thresholds[2]
        boxes, points, scores = boxes[passed], points[passed], scores[passed]
        keep = suppress(boxes, scores, 0.7, of_smaller=True)
        boxes, points, scores = boxes[keep], points[keep], scores[keep]
        # What the network says depends a little on how its crop sits around the face. A second look, at the
        # box that the first one found, makes a face's size shake a third less from frame to frame.
        again_boxes, again_points, again_scores = self._look_closely(halvings, boxes)
        sure = again_scores > self.thresholds[2]
        boxes[sure], points[sure] = again_boxes[sure], again_points[sure]
        return boxes, scores, points

    def _look_closely(self, halvings: list[Image], boxes: Array) -> tuple[Array, Array, Array]:
        """The output network's boxes (n, 4), landmarks (n, 5, 2) and scores (n,) for `boxes` (n, 4)."""
        boxes = _squared(boxes)
        if len(boxes) == 0:
            return boxes, np.empty((0, 5, 2), np.float32), np.empty(0, np.float32)
        offsets, landmarks, faceness = self._run("onet", _sample(halvings, boxes, OUTPUT_SIZE))
        # The network gives the five x, then the five y, as shares of the box it was shown.
        shares = landmarks.reshape(-1, 2, 5).transpose(0, 2, 1)
        points = boxes[:, None, :2] + shares * (boxes[:, 2:] - boxes[:, :2])[:, None]
        return _shifted(boxes, offsets), points, faceness[:, 1]


def suppress(boxes: Array, scores: Array, threshold: float, *, of_smaller: bool = False) -> NDArray[np.intp]:
    """Greedy non-maximum suppression without a loop over boxes.

    Args:
        boxes: (n, 4) left, top, right, bottom.
        scores: (n,).
        threshold: A box goes if it overlaps a better box that stays by more than this share.
        of_smaller: The share is of the smaller box's area, instead of the union's.

    Returns:
        Indices of the boxes that stay, best first; of more than `MAX_PROPOSALS` boxes only the best are looked at.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_PROPOSALS]
    left, top, right, bottom = boxes[order].T
    width = np.minimum(right, right[:, None]) - np.maximum(left, left[:, None])
    height = np.minimum(bottom, bottom[:, None]) - np.maximum(top, top[:, None])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    whole = np.minimum(area, area[:, None]) if of_smaller else area + area[:, None] - shared
    # beats[j, i]: j is better than i and covers it.
    beats = np.triu(shared > threshold * whole, k=1)
    # A box stays if no box that stays beats it. Repeating this from "all stay" settles the boxes in order
    # of score, so it ends after at most as many rounds as the longest chain of boxes, usually two or three.
    stays = np.ones(len(order), bool)
    while True:
        settled = ~(beats & stays[:, None]).any(axis=0)
        if np.array_equal(settled, stays):
            return order[stays]
        stays = settled


def _pyramid_scales(rows: int, columns: int, min_face: float) -> list[float]:
    """Scales at which a face of `min_face` pixels, then ever larger ones, fills the proposal network's window."""
    scale = PROPOSAL_CELL / min_face
    scales = []
    while min(rows, columns) * scale >= PROPOSAL_CELL:
        scales.append(scale)
        scale *= PYRAMID_FACTOR
    return scales


def _halvings(image: Image) -> list[Image]:
    """The image, and the image shrunk to a half, a quarter, … as long as a window of the cascade fits."""
    halvings = [image]
    while min(halvings[-1].shape[:2]) >= 2 * OUTPUT_SIZE:
        rows, columns = halvings[-1].shape[:2]
        halvings.append(resize(halvings[-1], columns // 2, rows // 2))
    return halvings


def _sample(halvings: list[Image], boxes: Array, size: int) -> Image:
    """Square `boxes` (n, 4) of the first image as n × size × size × 3; grey where a box hangs over the edge.

    Each box is read, bilinearly, from the smallest halving that still has a pixel for every pixel wanted.
    """
    rows, columns = halvings[0].shape[:2]
    side = boxes[:, 2] - boxes[:, 0]
    levels = np.clip(np.floor(np.log2(np.maximum(side, 1) / size)), 0, len(halvings) - 1).astype(int)
    crops = np.empty((len(boxes), size, size, 3), np.uint8)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    for level in np.unique(levels):
        chosen = levels == level
        source = halvings[level]
        shrunk = np.array([source.shape[1] / columns, source.shape[0] / rows] * 2, np.float32)
        left, top, right, bottom = (boxes[chosen] * shrunk).T[..., None]
        x = left + steps * (right - left) - 0.5  # pixel centres, (n, size)
        y = top + steps * (bottom - top) - 0.5
        num = int(chosen.sum())
        map_x = np.broadcast_to(x[:, None, :], (num, size, size)).reshape(num * size, size)
        map_y = np.broadcast_to(y[:, :, None], (num, size, size)).reshape(num * size, size)
        read = cv2.remap(
            source,
            np.ascontiguousarray(map_x),
            np.ascontiguousarray(map_y),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(128, 128, 128),
        )
        crops[chosen] = read.reshape(num, size, size, 3)
    return crops


def _detections(boxes: Array, scores: Array, points: Array, back: NDArray[np.float64]) -> list[Detection]:
    """The last network's answers, (n, …) each, scaled by `back` (x, y)."""
    return [
        Detection(Box(*(corners * back).ravel().tolist()), float(score), marks * back)
        for corners, score, marks in zip(
            boxes.reshape(-1, 2, 2).astype(np.float64), scores, points.astype(np.float64), strict=True
        )
    ]


def _squared(boxes: Array) -> Array:
    """Boxes (n, 4) with the shorter side grown around the centre to the longer one."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([center - half, center + half], axis=1)


def _shifted(boxes: Array, offsets: Array) -> Array:
    """Boxes (n, 4) with each edge moved by `offsets` (n, 4), shares of the box's side."""
    side = boxes[:, 2:] - boxes[:, :2]
    return boxes + offsets * np.concatenate([side, side], axis=1)


def _build(build: Callable[[list[Array]], Any], name: str) -> Any:
    return build(_read_weights(name))


def _version_of_weights() -> str:
    try:
        return metadata.version("mtcnn")
    except metadata.PackageNotFoundError:
        return "unknown"


def _read_weights(name: str) -> list[Array]:
    """The arrays of one network, in the order of its layers, from the `mtcnn` wheel without importing it.

    Raises:
        RuntimeUnavailableError: The wheel is not installed or has no such file.
    """
    spec = find_spec("mtcnn")
    places = spec.submodule_search_locations if spec is not None else None
    paths = [Path(place) / "assets" / "weights" / f"{name}.lz4" for place in places or []]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise RuntimeUnavailableError(
            f"The weights {name}.lz4 of the MTCNN face detector are not there: install the package mtcnn 1.x."
        )
    import joblib  # a tenth of a second, which compiled networks that were kept spare

    return list(joblib.load(path))


class _Layers:
    """Appends layers to an OpenVINO graph, consuming arrays in the order in which the wheel stores them."""

    def __init__(self, weights: list[Array], shape: list[int]) -> None:
        self._openvino = import_openvino()
        self._ops = importlib.import_module("openvino.opset13")
        self._weights = iter(weights)
        self.input = self._ops.parameter(shape, np.uint8, name="images")

    def normalized(self) -> Any:
        """n×h×w×3 grey levels, BGR → n×3×h×w, RGB from -1 to 1, as the networks were trained."""
        node = self._ops.transpose(self.input, self._ops.constant(np.array([0, 3, 1, 2])))
        node = self._ops.gather(node, self._ops.constant(np.array([2, 1, 0])), self._ops.constant(1))
        node = self._ops.convert(node, np.float32)
        node = self._ops.subtract(node, self._ops.constant(np.float32(127.5)))
        return self._ops.multiply(node, self._ops.constant(np.float32(1 / 128)))

    def convolution(self, node: Any) -> Any:
        """Valid convolution, stride 1; kernels are stored height × width × in × out."""
        kernel = np.ascontiguousarray(next(self._weights).transpose(3, 2, 0, 1))
        bias = next(self._weights).reshape(1, -1, 1, 1)
        node = self._ops.convolution(node, self._ops.constant(kernel), [1, 1], [0, 0], [0, 0], [1, 1])
        return self._ops.add(node, self._ops.constant(bias))

    def dense(self, node: Any) -> Any:
        node = self._ops.matmul(node, self._ops.constant(next(self._weights)), False, False)
        return self._ops.add(node, self._ops.constant(next(self._weights)[None]))

    def prelu(self, node: Any) -> Any:
        return self._ops.prelu(node, self._ops.constant(next(self._weights).ravel()))

    def max_pool(self, node: Any, size: int, *, same: bool) -> Any:
        padding = "same_upper" if same else "valid"
        pooled = self._ops.max_pool(node, [2, 2], [1, 1], [0, 0], [0, 0], [size, size], "floor", padding)
        return pooled.output(0)

    def flatten(self, node: Any) -> Any:
        # Parity: the dense layers were trained on width × height × channels, in that order.
        node = self._ops.transpose(node, self._ops.constant(np.array([0, 3, 2, 1])))
        return self._ops.reshape(node, self._ops.constant(np.array([0, -1])), True)

    def softmax(self, node: Any) -> Any:
        return self._ops.softmax(node, 1)

    def model(self, outputs: list[Any], name: str) -> Any:
        return self._openvino.Model(outputs, [self.input], name)


def _build_proposal(weights: list[Array]) -> Any:
    """1×h×w×3 → offsets (1, 4, h', w'), faceness (1, 2, h', w'), h' about h / 2 - 5."""
    layers = _Layers(weights, [1, -1, -1, 3])
    node = layers.prelu(layers.convolution(layers.normalized()))
    node = layers.max_pool(node, 2, same=True)
    node = layers.prelu(layers.convolution(node))
    node = layers.prelu(layers.convolution(node))
    offsets = layers.convolution(node)
    return layers.model([offsets, layers.softmax(layers.convolution(node))], "pnet")


def _build_refinement(weights: list[Array]) -> Any:
    """n×24×24×3 → offsets (n, 4), faceness (n, 2)."""
    layers = _Layers(weights, [-1, REFINE_SIZE, REFINE_SIZE, 3])
    node = layers.prelu(layers.convolution(layers.normalized()))
    node = layers.max_pool(node, 3, same=True)
    node = layers.prelu(layers.convolution(node))
    node = layers.max_pool(node, 3, same=False)
    node = layers.prelu(layers.convolution(node))
    node = layers.prelu(layers.dense(layers.flatten(node)))
    offsets = layers.dense(node)
    return layers.model([offsets, layers.softmax(layers.dense(node))], "rnet")


def _build_output(weights: list[Array]) -> Any:
    """n×48×48×3 → offsets (n, 4), landmarks (n, 10), faceness (n, 2)."""
    layers = _Layers(weights, [-1, OUTPUT_SIZE, OUTPUT_SIZE, 3])
    node = layers.prelu(layers.convolution(layers.normalized()))
    node = layers.max_pool(node, 3, same=True)
    node = layers.prelu(layers.convolution(node))
    node = layers.max_pool(node, 3, same=False)
    node = layers.prelu(layers.convolution(node))
    node = layers.max_pool(node, 2, same=True)
    node = layers.prelu(layers.convolution(node))
    node = layers.prelu(layers.dense(layers.flatten(node)))
    offsets = layers.dense(node)
    landmarks = layers.dense(node)
    return layers.model([offsets, landmarks, layers.softmax(layers.dense(node))], "onet")
