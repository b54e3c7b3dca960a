"""How far a generator moves the mouth, in an OpenVINO network, as `lipsmith.models.articulation` does in PyTorch's."""

from typing import Any

import numpy as np

from lipsmith.engine import compile_on_cpu, import_openvino
from lipsmith.errors import WeightsError
from lipsmith.timebase import NUM_MELS, SILENCE, WINDOW_COLUMNS


def articulate(model: Any, factor: float) -> None:
    """Move the code of each sound `factor` times as far from that of silence, no part of it below 0.

    Args:
        model: an `openvino.Model` of a generator, its inputs the windows and the faces; changed in place.
        factor: 0 is a mouth at rest, 1 as trained.

    Raises:
        WeightsError: sound and faces meet in more than one place of the network, so that there is no such code.
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
    if len(codes) != 1:
        raise WeightsError(
            f"In this network sound and faces meet in {len(codes)} places, not in one: how far it moves the mouth "
            "cannot be set. Leave out --articulation."
        )
    (code,) = codes
    window = np.full((1, 1, NUM_MELS, WINDOW_COLUMNS), SILENCE, np.float32)
    at_rest = compile_on_cpu(ov.Model([code], [sound], "sound"), threads=1)([window])[0]
    farther = layers.add(
        layers.multiply(code, np.float32(factor)), np.asarray((1 - factor) * at_rest, np.float32)
    )
    extended = layers.relu(farther).output(0)
    for port in meetings:
        port.replace_source_output(extended)
    model.validate_nodes_and_infer_types()
