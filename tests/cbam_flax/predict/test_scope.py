import pytest

from cbam_flax.export.run_record import SCOPE
from cbam_flax.predict.scope import out_of_scope

FRONTAL = {
    "modality": "CR",
    "view_position": "PA",
    "body_part": "CHEST",
    "series_description": "",
    "presentation_intent": "",
}


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"modality": "DX", "view_position": "AP"},
        {"modality": "", "view_position": "", "body_part": ""},
        {"body_part": "chest pa"},
        {"presentation_intent": "FOR PRESENTATION"},
        {"view_position": "", "series_description": "Bilateral opacities, platelike"},
    ],
)
def test_a_frontal_chest_image_or_a_silent_header_is_in_scope(header):
    assert out_of_scope(FRONTAL | header, SCOPE) == []


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        ({"modality": "ct"}, ["modality=CT"]),
        ({"presentation_intent": "FOR PROCESSING"}, ["presentation_intent=FOR PROCESSING"]),
        ({"body_part": "KNEE"}, ["body_part=KNEE"]),
        ({"view_position": "LL"}, ["view=LL"]),
        ({"view_position": "LATERAL"}, ["view=LATERAL"]),
        ({"view_position": "", "series_description": "Thorax lat."}, ["view=LATERAL"]),
        ({"view_position": "", "series_description": "CHEST, LATERAL"}, ["view=LATERAL"]),
        (
            {"modality": "MG", "body_part": "BREAST", "view_position": "MLO"},
            ["modality=MG", "body_part=BREAST", "view=MLO"],
        ),
    ],
)
def test_what_the_header_says_against_it_is_named(header, flags):
    assert out_of_scope(FRONTAL | header, SCOPE) == flags


def test_a_stated_frontal_view_outweighs_a_description():
    header = FRONTAL | {"view_position": "PA", "series_description": "Chest PA and lateral"}
    assert out_of_scope(header, SCOPE) == []
