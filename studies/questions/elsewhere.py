"""What is left of a model elsewhere, of adults on children and the other way round?

Adults are the RSNA-labelled radiographs (`rsna_nih`), children those of Kermany et al. (`kermany`),
both at 128 px, prepared as docs/data.md says. Each model is compared with the one that was trained
on the judged population. Calibration and threshold come from the model's own validation split, so
the Brier score, sensitivity and specificity are what a user elsewhere would get.
"""

from studies.study import Comparison, Judged, Study

STUDY = Study(
    config="configs/rsna_small.py",
    cpu_minutes=20.0,
    seeds=range(5),
    variants={
        "adults": {"dataset": "rsna_nih"},
        "children": {"dataset": "kermany", "duration.epochs": 3},
    },
    judged=[Judged("on_adults", dataset="rsna_nih"), Judged("on_children", dataset="kermany")],
    figures=("auroc", "brier", "sensitivity", "specificity"),
    comparisons=[
        Comparison("children's model on adults", "children@on_adults", "adults@on_adults"),
        Comparison("adults' model on children", "adults@on_children", "children@on_children"),
    ],
)
