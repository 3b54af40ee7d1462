import types

import numpy as np
import pytest

from cbam_flax.export.model_card import model_card
from cbam_flax.export.run_record import Run

BUNDLE = {
    "preprocessing": {"image_size": 32},
    "config": {
        "model": {
            "preset": "cbam_resnet",
            "attention": "cbam",
            "pooling": "mixed",
            "context": "aspp",
            "head": "flatten",
            "width": 0.5,
        }
    },
    "calibration": {"scale": 1.25, "bias": -0.5, "source": "fitted on 90 images"},
    "operating_point": {"threshold": 0.375, "criterion": "youden"},
    "fingerprints": {
        "checkpoint": {"step": 40, "sha256": "c" * 64},
        "config": {"sha256": "d" * 64},
        "data": {"dataset": "x", "content_sha256": {"train": "e" * 64}},
        "code": {
            "version": "9.8.7",
            "sha256": "f" * 64,
            "commit": None,
            "packages": {"jax": "1.2.3"},
        },
    },
    "ancestors": [
        {"dataset": "nih/256px/1.0.0", "step": 9000, "weights_sha256": "a" * 64},
        {"dataset": None, "step": None, "weights_sha256": "b" * 64},
    ],
    "warnings": ["LEAK: 12 of 200 images show known patients."],
    "verification": {"max_difference": {"model.onnx": 2e-7}},
    "saliency": {
        "method": "occlusion",
        "pointing": {
            "grad_cam": {"value": 0.571, "low": 0.5, "high": 0.999},
            "occlusion": {"value": 0.725, "low": 0.6, "high": 0.85},
        },
        "images": 35,
    },
}
MANIFEST = {
    "dataset": "rsna_pneumonia/32px-image/1.0.0",
    "split_scheme": "image",
    "preprocessing": {"image_size": 32, "aspect": "squash"},
    "counts": {"inputs": 1630, "accepted": 1600, "rejected": 30},
    "splits": {"train": {"images": 1100, "patients": 987, "positive": 321}},
}


def interval(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": 0.5, "high": 0.999}


METRICS = {
    "name": "elsewhere",
    "split": "test",
    "dataset": "x/32px/1.0.0",
    "n": 200,
    "n_positive": 55,
    "n_patients": 150,
    "warnings": [],
    "bootstrap": {"unit": "patients"},
    "auroc": interval(0.87654),
    "ppv": interval(None),
    "confusion": {"tp": 50, "fp": 20, "fn": 5, "tn": 125},
    "at_prevalence": [{"prevalence": 0.05, "ppv": interval(0.25), "npv": interval(0.99)}],
    "subgroups": [
        {
            "group": "view",
            "member": "AP",
            "n": 77,
            "n_positive": 33,
            "small": True,
            "auroc": interval(0.71),
            "sensitivity": interval(0.72),
            "specificity": interval(0.73),
        }
    ],
    "baselines": {"view": {"auroc": interval(0.6543), "gain": interval(0.2222)}},
}


def card(metrics: dict | None, **manifest) -> str:
    restored = types.SimpleNamespace(
        step=40,
        variables={"params": {"a": np.ones((100, 20))}},
        config=types.SimpleNamespace(image_size=32),
    )
    return model_card(
        Run(types.SimpleNamespace(members=[restored]), MANIFEST | manifest, metrics), BUNDLE
    )


@pytest.mark.parametrize(
    "statement",
    [
        "2,000 parameters",
        "Split by **image**",
        "1,630 inputs, 1,600 accepted, 30 refused",
        "| train | 1100 | 987 | 321 |",
        "> **LEAK: 12 of 200 images show known patients.**",
        "| AUROC | 0.877 (0.500 to 0.999) |",
        "| PPV | undefined |",
        "| 5% | 0.250 (0.500 to 0.999) | 0.990",
        "tp 50, fp 20, fn 5, tn 125",
        "| view: AP (small) | 77 | 33 | 0.710",
        "| view | 0.654 (0.500 to 0.999) | 0.222",
        "sigmoid(1.25 x logit + -0.5)",
        "Positive at 0.375 or above (criterion: youden)",
        "c" * 64,
        f"| started from nih/256px/1.0.0, step 9,000 | {'a' * 64} |",
        f"| started from an imported model | {'b' * 64} |",
        "not from a git checkout",
        "model.onnx 2.0e-07",
        "**Not for clinical use.**",
        "`predict` shows occlusion unless `--saliency` says otherwise: in the evaluation its",
        "Of 35 positive images",
        "| Grad-CAM | 0.571 (0.500 to 0.999) |",
    ],
)
def test_the_card_states(statement):
    assert statement in card(METRICS)


def test_what_is_known_of_the_challenge_is_said_of_its_data_alone():
    own, other = card(METRICS), card(METRICS, dataset="kermany/32px/1.0.0")
    for words in ("a radiologist would mark", "radiologists' readings", "In the RSNA data the"):
        assert words in own
        assert words not in other
    assert "the probability that an image is labelled pneumonia" in other


def test_where_no_box_was_there_the_card_says_so(monkeypatch):
    monkeypatch.setitem(BUNDLE, "saliency", {"method": "grad_cam", "pointing": {}, "images": 0})
    text = card(METRICS)
    assert "`predict` shows Grad-CAM unless" in text
    assert "Where the model looks was not evaluated." in text


def test_without_an_evaluation_the_card_says_that_it_has_no_metrics():
    text = card(None)
    assert text.count("states no metrics") == 2
    assert "They were not evaluated for this run." in text
    assert "AUROC" not in text


def test_every_table_is_rectangular():
    rows = [line.count("|") for line in card(METRICS).splitlines() if line.startswith("|")]
    heads = [i for i, line in enumerate(card(METRICS).splitlines()) if line.startswith("| ---")]
    assert len(heads) == 7
    assert all(count >= 3 for count in rows)
