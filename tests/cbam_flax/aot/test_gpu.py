# ruff: noqa: E501  (HLO has long lines)
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from cbam_flax.aot import gpu, hlo_cost, targets
from cbam_flax.aot.chips import GPUS, TPUS
from cbam_flax.aot.compile import cost
from cbam_flax.aot.summary import ESTIMATES, describe, summarise
from data_prep.cli import UserError

# As the GPU compiler writes it: a convolution and its gradients in cuDNN, one of which became a
# forward convolution, products in cuBLAS and in a fusion, and a fusion that only moves bytes.
HLO = """HloModule jit_step, is_scheduled=true

%gemm (param_0: bf16[32,64], param_1: bf16[64,16]) -> bf16[32,16] {
  %param_0 = bf16[32,64]{1,0} parameter(0)
  %param_1 = bf16[64,16]{1,0} parameter(1)
  ROOT %dot.1 = bf16[32,16]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%doubled (param_0: bf16[8,56,56,64]) -> bf16[8,56,56,64] {
  %param_0 = bf16[8,56,56,64]{3,2,1,0} parameter(0)
  ROOT %add.1 = bf16[8,56,56,64]{3,2,1,0} add(%param_0, %param_0)
}

ENTRY %main (x: bf16[8,56,56,64], k: bf16[32,3,3,64], a: bf16[32,64], b: bf16[64,16]) -> bf16[32,16] {
  %x = bf16[8,56,56,64]{3,2,1,0} parameter(0)
  %k = bf16[32,3,3,64]{3,2,1,0} parameter(1)
  %a = bf16[32,64]{1,0} parameter(2)
  %b = bf16[64,16]{1,0} parameter(3)
  %forward = (bf16[8,56,56,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/CBAMResNet/block1/conv"}, backend_config={}
  %dy = bf16[8,56,56,32]{3,2,1,0} get-tuple-element(%forward), index=0
  %dx = (bf16[8,56,56,64]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %dk = (bf16[32,3,3,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %fusion.1 = bf16[32,16]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm
  %blas = (bf16[32,16]{1,0}, s8[0]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %twice = bf16[8,56,56,64]{3,2,1,0} fusion(%x), kind=kLoop, calls=%doubled
  %other = bf16[4]{0} custom-call(%x), custom_call_target="Sharding"
  ROOT %end = bf16[32,16]{1,0} add(%fusion.1, %fusion.1)
}
"""
CONVOLUTION = 2 * 8 * 56 * 56 * 32 * 64 * 9
PRODUCT = 2 * 32 * 16 * 64


@pytest.fixture(scope="module")
def found():
    return {one.name: one for one in hlo_cost.instructions(HLO)}


def test_operations_of_convolutions_and_products(found):
    assert {name: one.flops for name, one in found.items() if one.flops} == {
        "forward": CONVOLUTION,
        "dx": CONVOLUTION,
        "dk": CONVOLUTION,
        "fusion.1": PRODUCT,
        "blas": PRODUCT,
    }


def test_calls_of_libraries_move_bytes_and_others_are_free(found):
    assert found["forward"].moved_bytes == 2 * (8 * 56 * 56 * (32 + 64) + 32 * 9 * 64)
    assert found["other"].moved_bytes == 0


def test_an_instruction_takes_the_longer_of_arithmetic_and_traffic(found):
    chip = GPUS["h200"]
    assert cost(found["twice"], chip) == 2 * 2 * 8 * 56 * 56 * 64 / chip.bandwidth
    slow = chip._replace(flops=1e9)
    assert cost(found["forward"], slow) == CONVOLUTION / 1e9


def test_operations_of_a_product_that_was_really_compiled():
    product = jax.jit(lambda a, b: jnp.einsum("abc,cd->abd", a, b) + 1)
    text = product.lower(jnp.zeros((4, 8, 16)), jnp.zeros((16, 32))).compile().as_text()
    assert sum(one.flops for one in hlo_cost.instructions(text)) == 2 * 4 * 8 * 16 * 32


@pytest.mark.parametrize("name", GPUS)
def test_each_gpu_is_described(name):
    text = gpu.config(name, GPUS[name])
    assert f"memory_bandwidth: {GPUS[name].bandwidth:.0f}" in text
    assert f"core_count: {gpu.CORES[name].count}" in text
    assert text.count("{") == text.count("}")


def test_names_do_not_collide_and_bad_ones_are_refused():
    assert not set(GPUS) & set(TPUS)
    for topology in ("h200:", "h200:0", "h200:2x2", "h300", "v5e"):
        with pytest.raises(UserError, match="it must be one of v4"):
            targets.target(topology)


def test_without_the_plugin_one_sentence_names_the_requirements(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-cuda\.txt"):
        targets.target("h200")


def test_what_does_not_fit_is_told():
    from cbam_flax.aot.compile import Report

    target = targets.Target([None], 1, GPUS["a100"], "gpu")
    report = Report(0, int(90e9), int(90e9), 1.0, hlo_cost.instructions(HLO))
    figures = summarise(report, target, topology="a100", batch_per_chip=8, stage=None, by="stage")
    assert figures["estimate"] == ESTIMATES["gpu"]
    assert "it does NOT fit" in describe(figures)


@pytest.mark.skipif(
    importlib.util.find_spec(gpu.PLUGIN) is None,
    reason="the CUDA plugin is not installed; requirements-cuda.txt brings it",
)
@pytest.mark.parametrize("name", GPUS)
def test_the_plugin_compiles_for_it(name):
    target = targets.target(f"{name}:2", chips=1)
    place = jax.sharding.SingleDeviceSharding(target.devices[0])
    x = jax.ShapeDtypeStruct((8, 56, 56, 64), jnp.bfloat16, sharding=place)
    k = jax.ShapeDtypeStruct((3, 3, 64, 32), jnp.bfloat16, sharding=place)
    dimensions = ("NHWC", "HWIO", "NHWC")

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=dimensions)

    found = hlo_cost.instructions(jax.jit(convolve).lower(x, k).compile().as_text())
    assert sum(one.flops for one in found) == CONVOLUTION
