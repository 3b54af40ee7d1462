"""What is a leaky split worth?

The same model and as many training images on a split by patient and on one by image, of the 1,775
RSNA-labelled radiographs of 1,414 patients. `rsna_nih` is prepared as docs/data.md says, and
`rsna_nih_by_image` by the same command with `--patient=unknown`. The test images differ, so the
difference is paired by seed only; where the patients are not told, the interval is over images. A
split by row needs several records of an image, which a table does not give, so it is not judged
here.
"""

from studies.study import Comparison, Study

STUDY = Study(
    config="configs/rsna_small.py",
    cpu_minutes=10.0,
    variants={
        "by_patient": {"dataset": "rsna_nih"},
        "by_image": {"dataset": "rsna_nih_by_image/128px-image"},
    },
    comparisons=[Comparison("split by image instead of by patient", "by_image", "by_patient")],
)
