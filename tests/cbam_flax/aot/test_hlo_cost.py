# ruff: noqa: E501  (HLO has long lines)
import pytest

from cbam_flax.aot import compile as tpu_compile
from cbam_flax.aot import hlo_cost
from cbam_flax.aot.chips import TPUS

# As the TPU compiler writes it: a fusion, a loop, a conditional's kin, and two without an estimate.
HLO = """HloModule jit_step, is_scheduled=true

FileNames
1 "/somewhere/cbam_flax/.venv/lib/flax/linen/linear.py"
2 "/somewhere/cbam_flax/cbam_flax/models/attention.py"

FunctionNames
1 "apply"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=42 end_line=42 column=1 end_column=2}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}

%fused_computation (param_0: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  ROOT %inside = f32[8,4]{1,0} negate(%param_0), backend_config={"estimated_cycles":"999"}
}

%picked (param_0: f32[8,4]) -> f32[5] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  ROOT %inner = f32[5]{0} gather(%param_0, %indices), offset_dims={}
}

%body (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %arg = (s32[], f32[8,4]{1,0}) parameter(0)
  %turn = f32[8,4]{1,0} fusion(%arg), kind=kLoop, calls=%fused_computation, backend_config={"estimated_cycles":"10"}
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%arg, %turn)
}

ENTRY %main (x: f32[8,4], y: bf16[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0:T(8,128)} parameter(0)
  %once = (f32[8,4]{1,0}, bf16[2]{0}) fusion(%x), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(step)/CBAMResNet/block1/add" stack_frame_id=2}, backend_config={"estimated_cycles":"100"}
  %wide = f32[16,4]{1,0} pad(%x, %zero), padding=0_8x0_0
  %pick = f32[5]{0} fusion(%x), kind=kCustom, calls=%picked, metadata={op_name="pick"}
  %loop = (s32[], f32[8,4]{1,0}) while(%tuple), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %sum = f32[8,4]{1,0} all-reduce(%x), replica_groups={}, to_apply=%add
  %fast = f32[8,4]{1,0:T(8,128)S(1)} negate(%x), backend_config={"estimated_cycles":"1"}
  ROOT %end = f32[8,4]{1,0} copy-done(%sum)
}
"""


@pytest.fixture(scope="module")
def found():
    return {one.name: one for one in hlo_cost.instructions(HLO)}


def test_a_fusion_is_counted_once_and_its_inside_not_at_all(found):
    assert found["once"].cycles == 100
    assert "inside" not in found


def test_the_body_of_a_loop_counts_as_often_as_it_runs(found):
    assert (found["turn"].cycles, found["turn"].runs) == (30, 3)


def test_source_is_the_innermost_line_of_the_package(found):
    assert found["once"].source == "cbam_flax/models/attention.py:42"
    assert found["once"].op_name == "jit(step)/CBAMResNet/block1/add"
    assert found["turn"].source == ""


def test_bytes_of_outputs_and_of_what_has_no_estimate(found):
    assert found["once"].output_bytes == 8 * 4 * 4 + 2 * 2
    assert found["wide"].moved_bytes == 16 * 4 * 4 + 8 * 4 * 4
    assert {name for name, one in found.items() if not one.priced} == {"wide", "pick"}


def test_what_a_gather_picks_is_counted(found):
    assert {name: one.gathered for name, one in found.items() if one.gathered} == {"pick": 5}
    chip = TPUS["v5e"]
    assert tpu_compile.cost(found["pick"], chip) == 5 * chip.gather_cycles / chip.clock
    assert tpu_compile.cost(found["wide"], chip) == found["wide"].moved_bytes / chip.bandwidth


def test_what_lies_in_fast_memory_is_no_traffic(found):
    assert found["once"].moved_bytes == 2 * 8 * 4 * 4 + 2 * 2
    assert found["fast"].moved_bytes == 8 * 4 * 4
