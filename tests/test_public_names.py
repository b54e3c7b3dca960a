import subprocess
import sys

import pytest

import lipsmith


@pytest.mark.parametrize("name", lipsmith.__all__)
def test_every_public_name_is_there(name):
    assert getattr(lipsmith, name) is not None
    assert name in dir(lipsmith)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sink'"):
        lipsmith.sink  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lipsmith", ["numpy", "cv2", "av", "openvino", "torch"]),
        ("from lipsmith import LipSyncer, SyncOptions, sync", ["openvino", "torch", "c2pa", "cryptography"]),
    ],
)
def test_importing_loads_nothing_that_is_not_needed_yet(statement, absent):
    code = f"import sys\n{statement}\nprint([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
