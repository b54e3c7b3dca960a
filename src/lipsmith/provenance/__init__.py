"""What was done to a file, and how the file says so.

Three marks: Content Credentials (`content_credentials`), a tag of the container (`container`), a label in
the picture (`visible`, on request). `inspect` reads the first two back.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipsmith.provenance.container import container_metadata
    from lipsmith.provenance.content_credentials import Signature, can_embed, sidecar_path, sign
    from lipsmith.provenance.identity import Identity, load_identity, load_or_create_identity
    from lipsmith.provenance.record import SyncRecord
    from lipsmith.provenance.visible import DEFAULT_LABEL, VisibleMark, burn_label

_HOMES = {
    "DEFAULT_LABEL": "visible",
    "Identity": "identity",
    "Signature": "content_credentials",
    "SyncRecord": "record",
    "VisibleMark": "visible",
    "burn_label": "visible",
    "can_embed": "content_credentials",
    "container_metadata": "container",
    "load_identity": "identity",
    "load_or_create_identity": "identity",
    "sidecar_path": "content_credentials",
    "sign": "content_credentials",
}

__all__ = [
    "DEFAULT_LABEL",
    "Identity",
    "Signature",
    "SyncRecord",
    "VisibleMark",
    "burn_label",
    "can_embed",
    "container_metadata",
    "load_identity",
    "load_or_create_identity",
    "sidecar_path",
    "sign",
]


def __getattr__(name: str) -> Any:
    """Public names, loaded on first use: importing the package loads neither cv2 nor c2pa."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
