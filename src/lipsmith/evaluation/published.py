"""Files that other people published and that evaluation needs: fetched on request, from their authors' addresses.

Nothing here is fetched unless a user asked for it, and nothing is used that has another sha256 than stands here.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from lipsmith.errors import WeightsError
from lipsmith.weights.store import cache_folder, load_card, user_folder, weights_folder


@dataclass(frozen=True)
class PublishedFile:
    """A file at its authors' address.

    Attributes:
        name: what it is called here.
        address: where its authors keep it.
        sha256: of the file, in hexadecimal.
        licence: what is known of it.
    """

    name: str
    address: str
    sha256: str
    licence: str


SYNCNET_V2 = PublishedFile(
    "syncnet_v2.model",
    "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
    "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
    "not stated by its authors (VGG, University of Oxford): for research",
)
INCEPTION = PublishedFile(
    "inception-2015-12-05.pt",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    "Apache-2.0 (TensorFlow's Inception of 2015-12-05, translated by NVIDIA)",
)


def fetch(file: PublishedFile, folder: Path | None = None) -> Path:
    """The path of `file`, downloaded into `folder` (the cache by default) unless it lies there unchanged.

    Raises:
        WeightsError: it cannot be downloaded, or is another file than the one that is known here.
    """
    import pooch
    import requests

    folder = folder or cache_folder() / "published"
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        found = pooch.retrieve(file.address, known_hash=f"sha256:{file.sha256}", fname=file.name, path=folder)
    except ValueError as error:  # pooch's word for another hash
        raise WeightsError(
            f"{file.address} gave another file than {file.name} as it is known (its sha256 differs), and it was not "
            "kept. Its authors may have moved it: fetch it by hand and give its path."
        ) from error
    except (requests.RequestException, OSError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{file.name} cannot be fetched from {file.address} ({reason}). Fetch it on another machine and give "
            "its path."
        ) from error
    return Path(found)


def install_syncnet(file: PublishedFile | None = None) -> Path:
    """Fetch SyncNet's weights (`SYNCNET_V2`) and install them as `syncnet-v2`; the folder of the installed weights.

    The card names the address. The file is a pickle: tensors are read from it, and nothing in it is run.

    Raises:
        WeightsError: as `fetch`; or it is no checkpoint of SyncNet.
    """
    from lipsmith.evaluation.judges import SYNCNET_NAME
    from lipsmith.weights.checkpoint import import_checkpoint

    file = file or SYNCNET_V2
    facts = {
        "source": f"{file.address}, sha256 {file.sha256}",
        "licence": file.licence,
        "use": "research",
        "description": "SyncNet v2, the judge of LSE-D and LSE-C, as its authors published it.",
    }
    try:
        import_checkpoint(fetch(file), SYNCNET_NAME, overrides=facts)
    except WeightsError:
        if not (user_folder() / SYNCNET_NAME).exists():  # else another process has installed them meanwhile
            raise
    return weights_folder(load_card(SYNCNET_NAME))
