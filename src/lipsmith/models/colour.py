"""Brightness of colours, as tensors."""

from torch import Tensor

from lipsmith.geometry import LUMA_BGR


def luma(faces: Tensor) -> Tensor:
    """(…, 3, H, W), BGR → (…, 1, H, W)."""
    return (faces * faces.new_tensor(LUMA_BGR).view(3, 1, 1)).sum(dim=-3, keepdim=True)
