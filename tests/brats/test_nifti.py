"""NIfTI files: limits are looked at before memory is taken, and what is read is what ITK and nibabel read."""

import gzip
import resource
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robustness.hostile import cases
from unet3d.brats import gunzip, nifti, segmentations
from unet3d.errors import UserError

FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SHAPE = (5, 6, 7)


def made(path, dtype="<i2", affine=cases.AFFINE):
    array = np.random.default_rng(1).integers(0, 100, SHAPE).astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(array, affine, header, dtype=array.dtype).to_bytes()))
    return path


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", "<u4", "<f4", ">f4", "<f8", "<i8", "<u8"])
@pytest.mark.parametrize("slope", [None, (2.5, 10), (0, 0), (-1, 0)])
def test_what_is_read_is_what_itk_and_nibabel_read(tmp_path, dtype, slope):
    path = made(tmp_path / "a.nii.gz", dtype)
    if slope:
        cases.field(112, (">" if dtype[0] == ">" else "<") + "2f", *slope)(path)
    read = nifti.read("t1", path)
    grid, voxels = read.grid, read.voxels
    assert voxels.dtype == np.float32
    assert read.scaled == (slope not in (None, (0, 0)))
    image = SimpleITK.ReadImage(str(path))
    assert np.allclose(voxels, nibabel.load(path).get_fdata().T, rtol=1e-6)
    assert np.allclose(voxels, SimpleITK.GetArrayFromImage(image), rtol=1e-6)
    if not read.scaled:
        # To the last bit: nnU-Net's own reading is left out for these.
        assert np.array_equal(voxels, SimpleITK.GetArrayFromImage(image).astype(np.float32))
    expected = nifti.Grid(image.GetSize(), image.GetSpacing(), image.GetDirection(), image.GetOrigin())
    assert grid.size == expected.size and grid.differs(expected) is None


values = st.one_of(st.sampled_from([cases.NAN, cases.INF, 0, -1, 1e-30, 3e38, 1e-4, 100, 1]), st.floats(width=32))
FLOATS = (76, 80, 84, 88, 108, 112, 116, 256, 260, 264, 268, 280, 284, 296, 312)
SHORTS = (40, 42, 44, 46, 48, 70, 72, 252, 254)
changes = st.one_of(
    st.tuples(st.sampled_from(FLOATS), st.just("<f"), values),
    st.tuples(st.sampled_from(SHORTS), st.just("<h"), st.integers(-(2**15), 2**15 - 1)),
    st.tuples(st.just(123), st.just("<B"), st.integers(0, 255)),
    st.tuples(st.integers(0, 351), st.just("<B"), st.integers(0, 255)),
)


@settings(max_examples=150, **FUZZ)
@given(changed=st.lists(changes, min_size=1, max_size=4))
def test_any_header_is_a_finite_volume_in_its_limits_or_refused(tmp_path, changed):
    path = made(tmp_path / "a.nii.gz")
    for change in changed:
        cases.field(*change)(path)
    try:
        image = nifti.read("t1", path)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return
    grid, voxels = image.grid, image.voxels
    assert np.isfinite(voxels).all() and voxels.shape[::-1] == grid.size
    assert all(0.1 <= step <= 20 for step in grid.spacing) and np.isfinite([*grid.direction, *grid.origin]).all()


@pytest.mark.parametrize("name", ["extents 1024", "gzip bomb", "hole of a terabyte"])
def test_nothing_large_is_allocated_for_what_is_refused(tmp_path, name):
    folder = cases.make_case(tmp_path)
    {**cases.NIFTI, **cases.PLACES}[name](cases.file_of(folder, "t1"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="t1"):
        nifti.read("t1", cases.file_of(folder, "t1"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spacing 1 km", r"spacing is 1e\+06, 1e\+06, 1e\+06 mm; allowed is 0.1 to 20 mm"),
        ("micrometres", "spacing is 0.001"),
        ("extents 1024", "a volume has at most 33554432 voxels"),
        ("extents 32767", "a volume has three axes of at most 1024 voxels"),
        ("voxels in the header", "its voxels begin at byte 0, allowed is 352 to"),
        ("slope inf", "its voxels are scaled by inf and 0"),
        ("float64 1e300", "has 1 voxels that are NaN or infinite"),
        ("int16 scaled away", "voxels that are NaN or infinite"),
        ("float32 1e20", "has voxels of 1e\\+20, allowed is up to 1e\\+12"),
        ("type complex", "its voxels are of NIfTI's type 32"),
        ("size of NIfTI-2", "it is NIfTI-2, NIfTI-1 is needed"),
        ("gzip bomb", "bytes are announced, the file has "),
        ("sform nan", "what sform_code stands for is not finite"),
        ("device", "is a device; a regular file is needed"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, message):
    folder = cases.make_case(tmp_path)
    {**cases.NIFTI, **cases.PLACES}[name](cases.file_of(folder, "t1"))
    with pytest.raises(UserError, match=message):
        nifti.read("t1", cases.file_of(folder, "t1"))


MOVED = {
    "spacing": np.diag([-2.0, -1, 1, 1]),
    "direction": np.diag([1.0, -1, 1, 1]),
    "origin": cases.AFFINE + np.array([[0, 0, 0, 5.0]] + [[0] * 4] * 3),
}


@pytest.mark.parametrize("what", ["shape", *MOVED])
def test_labels_on_another_grid_are_not_scored(tmp_path, what):
    properties = {
        "original_size_of_raw_data": [7, 6, 5], "itk_spacing": [1.0] * 3, "itk_origin": [0.0] * 3,
        "itk_direction": [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0],
    }  # fmt: skip
    path = tmp_path / "a_seg.nii.gz"
    cases.save(path, np.ones(SHAPE, np.uint8))
    assert (segmentations.read(path, properties) == 2).all()
    cases.save(path, np.ones((5, 6, 8) if what == "shape" else SHAPE, np.uint8), MOVED.get(what, cases.AFFINE))
    with pytest.raises(UserError, match=f"seg differs from the preprocessed images in .*{what}"):
        segmentations.read(path, properties)


def test_a_byte_order_that_is_not_this_machines(tmp_path):
    path = made(tmp_path / "a.nii.gz", ">i2")
    assert struct.unpack(">i", gzip.decompress(path.read_bytes())[:4]) == (348,)
    assert np.array_equal(nifti.read("t1", path).voxels, np.random.default_rng(1).integers(0, 100, SHAPE).T)


def test_a_file_of_several_members_is_read_as_one(tmp_path, monkeypatch):
    """As bgzip and parallel packers write it, also where pieces end within a member, with zeros behind."""
    path = made(tmp_path / "a.nii.gz")
    whole, content = nifti.read("t1", path).voxels, gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(content[at : at + 100]) for at in range(0, len(content), 100)) + bytes(50))
    for piece in (7, gunzip.PIECE):
        monkeypatch.setattr(gunzip, "PIECE", piece)
        assert np.array_equal(nifti.read("t1", path).voxels, whole)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match="is not a whole gzip file"):
        nifti.read("t1", path)
