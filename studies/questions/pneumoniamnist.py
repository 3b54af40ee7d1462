"""How good is the recipe of configs/pneumoniamnist.py beside the published rows?

Official split, 28 px, from scratch, mean and standard deviation over ten seeds; the levers that
could better it are in `pneumoniamnist_levers`, judged on validation. To stand beside, AUROC /
accuracy: ResNet-18 .944/.854, ResNet-50 .948/.854, AutoKeras .947/.878 and AutoML Vision .991/.946
of MedMNIST's own table (the last with a protocol that is not known); over three seeds VGG16 from
ImageNet .970/.848 and a linear probe of DINO ViT-B/16 .973/.866 at 28 px, VGG16 .987/.893 at 64 px,
DenseNet-121 .988/.898 at 128 px, DINO .989/.916 at 224 px. Figures that were chosen on the test
split, as MedViTV2's, do not count.
"""

from studies.study import Study

STUDY = Study(
    config="configs/pneumoniamnist.py",
    cpu_minutes=4.0,
    variants={"as_configured": {}},
)
