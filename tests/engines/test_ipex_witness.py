"""Data types read from oneDNN's report, in the forms of its versions 2 and 3."""

from unet3d.engines.pytorch.ipex_witness import PRIMITIVE

VERSION_3 = (
    "onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx512_core_bf16,forward_training,"
    "src:bf16::blocked:acdeb::f0 wei:bf16:a:blocked:AcdeB32a2b::f0 dst:bf16::blocked:acdeb::f0,,,mb1_ic4oc32,0.1\n"
    "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:acdeb::f0 dst:bf16:a,,,1x4,0.1\n"
)
VERSION_2 = (
    "onednn_verbose,exec,cpu,deconvolution,conv:any+brgconv:avx512_core_bf16,forward_inference,"
    "src_f32::blocked:acdeb:f0 wei_f32::blocked:AcdeB16a:f0 dst_f32::blocked:acdeb:f0,,,mb1_ic32oc16,0.2\n"
)


def test_types_are_those_of_the_convolutions_inputs():
    assert PRIMITIVE.findall(VERSION_3 + VERSION_2) == [("convolution", "bf16"), ("deconvolution", "f32")]
