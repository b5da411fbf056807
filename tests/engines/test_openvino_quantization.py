"""INT8: quantisers where they belong, close to fp32, calibrated outside the fold, and its loss measured."""

import numpy as np
import pytest
import torch

from unet3d import places
from unet3d.brats import calibration, sample_data
from unet3d.devices.registry import open_device
from unet3d.engines.base import Request
from unet3d.engines.registry import create
from unet3d.network import reference
from unet3d.network.plans import random_plans

pytest.importorskip("openvino", reason="openvino is not installed: pip install -r requirements-openvino.txt")
pytest.importorskip("nncf", reason="nncf is not installed: pip install -r requirements-openvino.txt")

SHAPE = (32, 32, 32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(7)
    return reference.build(random_plans(base_features=8, max_features=16, poolings=2))


@pytest.fixture(scope="module")
def run(network, tmp_path_factory):
    cache_dir = tmp_path_factory.mktemp("exports")

    def run(form, volumes=None):
        given = volumes or [np.random.default_rng(1).standard_normal((4, *SHAPE), dtype=np.float32)]
        engine = create(
            Request(
                "openvino",
                open_device("cpu"),
                "int8",
                network=form,
                threads=2,
                cache_dir=cache_dir,
                calibration=lambda: iter(given),
                calibration_source="noise of a test",
            )
        )
        engine.load(network)
        return engine

    return run


def error(engine, network, batch=1):
    x = np.random.default_rng(2).standard_normal((batch, 4, *SHAPE), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    return np.linalg.norm(engine.compare(x) - expected) / np.linalg.norm(expected)


def test_convolutions_run_in_int8_and_our_quantisers_are_nearer_to_fp32(run, network):
    ours, stock = run("fast"), run("reference")
    ours_error, stock_error = error(ours, network), error(stock, network)
    assert 1e-4 < ours_error < stock_error < 0.2
    for engine in (ours, stock):
        effective = engine.effective()
        assert effective.precision == "int8"
        assert effective.details["calibration"] == "noise of a test"
    assert error(ours, network, batch=2) < 0.2


# With these CPU flags upsampling is merged with the convolution after it, or is not.
MERGES = pytest.mark.parametrize("flags, merged", [({"avx2", "avx512bw"}, True), ({"avx2"}, False)])


@MERGES
def test_upsampling_stays_apart_where_int8_would_be_lost_by_merging_it(run, network, monkeypatch, flags, merged):
    import openvino

    from unet3d.devices import host

    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset(flags))
    engine = run("fast")
    assert error(engine, network) < 0.1
    assert engine.effective().precision == "int8"
    model = openvino.Core().read_model(engine._path)
    ups = [op for op in model.get_ops() if op.get_type_name() == "ConvolutionBackpropData"]
    assert {tuple(op.input_value(1).get_shape()[2:]) for op in ups} == {(4, 4, 4) if merged else (2, 2, 2)}
    for up in ups:
        readers = {reader.get_node().get_type_name() for reader in up.output(0).get_target_inputs()}
        assert readers == ({"Clamp"} if merged else {"FakeQuantize"})


@MERGES
def test_norms_take_what_convolutions_give_and_activations_become_unsigned(run, network, monkeypatch, flags, merged):
    import openvino

    from unet3d.devices import host

    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset(flags))
    model = openvino.Core().read_model(run("fast")._path)
    quantisers = [op for op in model.get_ops() if op.get_type_name() == "FakeQuantize"]
    norms = [op for op in model.get_ops() if op.get_friendly_name().endswith(".norm")]
    assert len(norms) == sum(isinstance(module, torch.nn.InstanceNorm3d) for module in network.modules())
    assert {op.input_value(0).get_node().get_type_name() for op in norms} == {"Convolution", "Add"}
    # Nothing between a convolution and its activation is quantised; no activation follows an upsampling that stays apart.
    apart = set() if merged else {"ConvolutionBackpropData"}
    quantised = {op.input_value(0).get_node().get_type_name() for op in quantisers}
    assert apart <= quantised <= {"PRelu", "Parameter", "Constant", "Convert", *apart}
    after_activation = [op for op in quantisers if op.input_value(0).get_node().get_type_name() == "PRelu"]
    assert len(after_activation) == sum("LeakyReLU" in type(module).__name__ for module in network.modules())
    assert all(op.input_value(1).get_node().data.max() == 0 for op in after_activation)


def test_layers_hand_on_without_a_pass_between(run):
    """Encoder: a convolution gives bf16 or fp32, the norm that reads it gives the next one's 8 bits."""
    from unet3d.devices import host

    engine = run("fast")
    engine.compare(np.zeros((1, 4, *SHAPE), dtype=np.float32))
    compiled = next(iter(engine._compiled.values()))[0]
    executed = compiled.get_runtime_model().get_ordered_ops()
    convolutions = [op for op in executed if layer_type(op) == "Convolution" and op.get_friendly_name().startswith("encoder.")]
    # The volume is signed, which OpenVINO leaves as it is for AMX; activations are not.
    first = "i8" if "amx_int8" in host.cpu_flags() else "u8"
    assert [op.get_input_element_type(0).get_type_name() for op in convolutions] == [first] + ["u8"] * 5
    for convolution in convolutions:
        assert convolution.get_output_element_type(0).get_type_name() in ("bf16", "f32")
        readers = {layer_type(reader.get_node()) for reader in convolution.output(0).get_target_inputs()}
        assert readers <= {"Pooling", "Reduce", "Subgraph"}
    # The pass that normalises and activates writes the bytes that the next convolution reads.
    assert [layer_type(convolution.input_value(0).get_node()) for convolution in convolutions[1:]] == ["Subgraph"] * 5


def test_transposed_convolutions_write_the_type_that_the_decoder_adds_in(run):
    """No reorder of their results: where the CPU has bf16 they write it themselves, two bytes a value instead of four."""
    from unet3d.devices import host

    engine = run("fast")
    engine.compare(np.zeros((1, 4, *SHAPE), dtype=np.float32))
    compiled = next(iter(engine._compiled.values()))[0]
    ups = [op for op in compiled.get_runtime_model().get_ordered_ops() if layer_type(op) == "Deconvolution"]
    assert len(ups) == 2
    floating = "bf16" if host.bf16_instructions() else "f32"
    # Without AVX-512 it is a convolution that reads them.
    expected = floating if "avx512bw" in host.cpu_flags() else "u8"
    for up in ups:
        assert up.get_output_element_type(0).get_type_name() == expected
        readers = {layer_type(reader.get_node()) for reader in up.output(0).get_target_inputs()}
        assert "Reorder" not in readers


def layer_type(op):
    value = op.get_rt_info()["layerType"]
    return str(getattr(value, "value", value))


def test_quantised_network_is_kept_by_its_calibration_volumes(run):
    other = [np.random.default_rng(9).standard_normal((4, *SHAPE), dtype=np.float32)]
    assert "quantise" in run("fast", other).load_seconds
    again = run("fast", other).load_seconds
    assert "quantise" not in again
    assert "read export" in again


def choose(dataset_dir=None, preprocessed_dir=None):
    return calibration.choose((64, 64, 64), 1, 3, dataset_dir, preprocessed_dir)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return folder, sample_data.make(folder, 6, seed=5, size=(40, 40, 32), processes=1)


def test_calibrates_with_cases_outside_the_fold(data):
    from unet3d.brats import folds

    folder, names = data
    chosen = choose(folder)
    held_out = folds.fold_names(names, 1)
    assert chosen.source.startswith("2 synthetic sample cases outside fold 1: ")
    assert held_out and not any(name in chosen.source for name in held_out)
    assert sum(name in chosen.source for name in names) == 2
    volumes = list(chosen.volumes())
    assert [volume.shape for volume in volumes] == [(4, 64, 64, 64)] * 2
    assert all(volume.std() > 0 for volume in volumes)


def test_without_data_noise_is_used_and_called_so(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "SAMPLE_DATA", tmp_path)
    chosen = choose()
    assert "standard normal noise (64, 64, 64)" in chosen.source and "seed 3; there is no data set" in chosen.source
    first, again = list(chosen.volumes()), list(chosen.volumes())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    # As dummy runs have it, and as cases are.
    assert [(volume == 0).mean() > 0.7 for volume in first] == [False, True]


def test_sample_data_beside_the_program_is_used_in_dummy_mode(monkeypatch, data):
    monkeypatch.setattr(places, "SAMPLE_DATA", data[0])
    assert "synthetic sample cases outside fold 1" in choose().source
