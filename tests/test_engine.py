"""OpenVINO is imported without its telemetry, and computes in float32."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lipsmith
from lipsmith.engine import compile_on_cpu, import_openvino, without_telemetry
from lipsmith.errors import RuntimeUnavailableError

SOURCES = Path(lipsmith.__file__).parent

# Imports both packages; the statistics package would leave its identifier in the home folder.
PROBE = """
import sys
from lipsmith.engine import import_openvino, without_telemetry
ov = import_openvino()
assert "openvino.tools.ovc" not in sys.modules  # slow to import, and seldom asked for
ov.convert_model
with without_telemetry():
    import nncf
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry")))
"""


def test_neither_openvino_nor_nncf_reports_usage(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert [file.name for file in tmp_path.rglob("*") if "openvino" in file.name] == []


@pytest.mark.parametrize(
    "path", sorted(SOURCES.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCES))
)
def test_openvino_is_imported_through_the_engine(path: Path) -> None:
    imported = {
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    assert [name for name in imported if name.partition(".")[0] == "openvino"] == []


def test_the_telemetry_package_is_left_to_others_afterwards() -> None:
    present = {name for name in sys.modules if name.startswith("openvino_telemetry")}
    with without_telemetry(), pytest.raises(ImportError):
        import openvino_telemetry  # noqa: F401
    assert {name for name in sys.modules if name.startswith("openvino_telemetry")} == present


def test_without_openvino_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it fails, as where it is absent
    with pytest.raises(RuntimeUnavailableError, match="pip install openvino"):
        import_openvino()


def test_a_container_s_quota_is_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = import_openvino().opset13
    numbers = ops.parameter([1, 4], np.float32, name="numbers")
    model = import_openvino().Model([ops.relu(numbers)], [numbers], "positive")
    for quota in (1, 2):
        monkeypatch.setattr("lipsmith.engine.core_quota", lambda quota=quota: quota, raising=False)
        assert compile_on_cpu(model).get_property("INFERENCE_NUM_THREADS") == quota
        assert compile_on_cpu(model, threads=1).get_property("INFERENCE_NUM_THREADS") == 1


def test_computes_in_float32() -> None:
    ov = import_openvino()
    ops = ov.opset13
    numbers = ops.parameter([1, 64], np.float32, name="numbers")
    weights = np.linspace(0.9, 1.1, 64 * 64, dtype=np.float32).reshape(64, 64)
    model = ov.Model([ops.matmul(numbers, ops.constant(weights), False, False)], [numbers], "product")
    given = np.linspace(-1, 1, 64, dtype=np.float32)[None]
    product = compile_on_cpu(model, threads=1).create_infer_request().infer([given])[0]
    # bfloat16 has eight bits: its sums would be off by some 1e-2.
    np.testing.assert_allclose(product, given.astype(np.float64) @ weights, rtol=0, atol=1e-5)
