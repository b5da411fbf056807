"""What launch kernels say of themselves, read from their sources: nothing is compiled."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "unet3d" / "network" / "triton_ops"


def kernels():
    """Functions that are launched on a grid: those whose names end with _kernel."""
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                yield pytest.param(path, node, id=f"{path.stem}.{node.name}")


@pytest.mark.parametrize(("path", "kernel"), kernels())
def test_a_launch_kernel_explains_its_grid_and_every_parameter(path, kernel):
    text = ast.get_docstring(kernel) or ""
    assert "Grid: (" in text and "Compile time:" in text
    described = " ".join(re.findall(r"^ {4}(\S[^:]*):", text, re.MULTILINE))
    assert {argument.arg for argument in kernel.args.args} <= set(re.findall(r"\w+", described))
    shapes = re.findall(r"\[(?:\w[^\]]*)\]", text)
    assert shapes


def test_output_channels_have_one_name():
    for parameter in kernels():
        path, kernel = parameter.values
        names = {argument.arg for argument in kernel.args.args}
        if path.stem not in ("norm", "interleave"):  # there a volume has as many channels after as before
            assert "COUT" in names and not names & {"C", "N", "CLASSES", "OUT"}
