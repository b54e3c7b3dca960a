"""How far a generator moves the mouth, in an OpenVINO network, as `lipsmith.models.articulation` does in PyTorch's.

The export puts the factor into the network as a constant, so that 8-bit ranges can be fitted to what it makes of the
sound; the runtime gives the constant its value.
"""

from typing import Any

import numpy as np

from lipsmith.engine import compile_on_cpu, import_openvino
from lipsmith.errors import WeightsError
from lipsmith.timebase import NUM_MELS, SILENCE, WINDOW_COLUMNS

_FACTOR = "articulation"
ARTICULATION_LAYERS = (
    "articulation/from_rest",
    "articulation/farther",
    "articulation/moved",
    "articulation/code",
)
"""Names of the layers that `make_articulate` adds."""


def make_articulate(model: Any) -> bool:
    """Let the code of each sound be moved away from that of silence, by a factor that is 1 until `articulate` sets it.

    Args:
        model: an `openvino.Model` of a generator in floating point, its inputs the windows and the faces; changed in
            place.

    Returns:
        False, and nothing changed, where there is no such code: sound and faces meet in more than one place, or what
        meets the faces does not end in a ReLU.
    """
    ov = import_openvino()
    layers = ov.opset13

    sound, met = model.inputs[0].get_node(), model.inputs[1].get_node()
    hear, see = {sound}, {met}
    for layer in model.get_ordered_ops():
        before = {port.get_source_output().get_node() for port in layer.inputs()}
        hear |= {layer} if before & hear else set()
        see |= {layer} if before & see else set()
    meetings = [
        port
        for layer in hear & see
        for port in layer.inputs()
        if port.get_source_output().get_node() in hear - see
    ]
    codes = {port.get_source_output() for port in meetings}
    if [code.get_node().get_type_name() for code in codes] != ["Relu"]:
        return False
    (code,) = codes
    window = np.full((1, 1, NUM_MELS, WINDOW_COLUMNS), SILENCE, np.float32)
    at_rest = compile_on_cpu(ov.Model([code], [sound], "sound"), threads=1)([window])[0]
    factor = layers.constant(np.float32(1), name=_FACTOR)
    from_rest = layers.subtract(code, layers.constant(at_rest), name=ARTICULATION_LAYERS[0])
    farther = layers.multiply(from_rest, factor, name=ARTICULATION_LAYERS[1])
    moved = layers.add(farther, layers.constant(at_rest), name=ARTICULATION_LAYERS[2])
    extended = layers.relu(moved, name=ARTICULATION_LAYERS[3]).output(0)
    for port in meetings:
        port.replace_source_output(extended)
    model.validate_nodes_and_infer_types()
    return True


def articulate(model: Any, factor: float) -> None:
    """Move the code of each sound `factor` times as far from that of silence, no part of it below 0.

    Args:
        model: an `openvino.Model` of an exported generator; changed in place.
        factor: 0 is a mouth at rest, 1 as trained.

    Raises:
        WeightsError: the network has no such factor: sound and faces meet in more than one place of it.
    """
    constants = [layer for layer in model.get_ops() if layer.get_friendly_name() == _FACTOR]
    if not constants:
        raise WeightsError(
            "How far this network moves the mouth cannot be set: sound and faces meet in more than one place of it, or "
            "it was exported by an older version; export it again, or leave out --articulation."
        )
    value = import_openvino().opset13.constant(np.float32(factor), name=_FACTOR).output(0)
    for port in constants[0].output(0).get_target_inputs():
        port.replace_source_output(value)
    model.validate_nodes_and_infer_types()
