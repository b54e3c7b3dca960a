import pytest

from lipsmith.errors import UsageError
from lipsmith.faces.detect import resolve_detector
from lipsmith.faces.mtcnn import MtcnnDetector


def test_the_default_detector_is_found_by_name():
    detector = resolve_detector("mtcnn")
    assert isinstance(detector, MtcnnDetector)
    assert detector.name == "mtcnn"


def test_an_unknown_detector_names_the_known_ones():
    with pytest.raises(UsageError, match=r"no face detector 's3fd'.*mtcnn"):
        resolve_detector("s3fd")
