"""Does it help to start from a model of 14 findings on other radiographs?

From scratch against started from a run on the NIH images without an RSNA label (`nih_14`; its 14
findings are text-mined from reports), both on the 1,775 RSNA-labelled radiographs (`rsna_nih`).
Both sets are split by the same patients' numbers, so no judged patient is in either training. The
config cannot ask for a part of the labels, so 10 and 30 % of them are not judged here.
"""

from studies.study import Comparison, Study

STUDY = Study(
    config="configs/rsna_small.py",
    cpu_minutes=12.0,
    seeds=range(5),
    variants={
        "pretrained": {"dataset": "nih_14"},
        "scratch": {},
        "transfer": {"init.from_run": "{pretrained}"},
    },
    helpers=["pretrained"],
    comparisons=[Comparison("started from 14 findings", "transfer", "scratch")],
)
