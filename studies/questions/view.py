"""How much of the figure is the view?

Sick patients are radiographed lying (AP) more often, so a model that sees the view knows something
of the label. AUROC over all images, within AP, within PA, and with the views weighing the same
within each label, on the 1,775 RSNA-labelled radiographs in five folds by patient. The gain over
metadata alone stands in each run's own evaluation.
"""

from studies.study import Comparison, Judged, Study

STUDY = Study(
    config="configs/rsna_small.py",
    cpu_minutes=10.0,
    seeds=range(5),
    folds=5,
    variants={"model": {}},
    judged=[
        Judged("all"),
        Judged("AP", where={"view": "AP"}),
        Judged("PA", where={"view": "PA"}),
        Judged("balanced", balance="view"),
    ],
    comparisons=[
        Comparison("within AP instead of over both views", "model@AP", "model@all"),
        Comparison("within PA instead of over both views", "model@PA", "model@all"),
        Comparison("views balanced within each label", "model@balanced", "model@all"),
    ],
)
