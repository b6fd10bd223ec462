"""BSCD-FSL's four target sets on small folders in their published layouts."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.bscd_fsl import FINDINGS, LESIONS, TARGETS, bscd_fsl
from ssl_runner.errors import ConfigError, DataError
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.wiring.compatibility import refuse_untrainable


def paint(path, shade, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 9, 3), (shade, number, 0), dtype=np.uint8)).save(path, "PNG")


def folders(root, place, classes):
    for shade, name in enumerate(classes):
        for number in range(3):
            paint(root / place / name / f"{number}.png", 10 * shade, number)


def isic(root):
    rows = ["image," + ",".join(LESIONS)]
    for number in range(21):
        paint(root / "ISIC" / "ISIC2018_Task3_Training_Input" / f"ISIC_{number:07d}.jpg", 10 * (number % 7), number)
        rows.append(f"ISIC_{number:07d}," + ",".join("1.0" if place == number % 7 else "0.0" for place in range(7)))
    table = root / "ISIC" / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    table.parent.mkdir()
    table.write_text("\n".join(rows))


def chestx(root):
    rows = ["Image Index,Finding Labels,Follow-up #"]
    others = ("No Finding", "Pneumonia", "Hernia", "Mass|Nodule")
    for number, finding in enumerate([*FINDINGS, *others] * 2):
        shade = 10 * FINDINGS.index(finding) if finding in FINDINGS else 255
        paint(root / "chestX" / f"images_{1 + number % 2:03d}" / "images" / f"{number:08d}_000.png", shade)
        rows.append(f"{number:08d}_000.png,{finding},{number}")
    (root / "chestX" / "Data_Entry_2017.csv").write_text("\n".join(rows))


MAKERS = {
    "crop_diseases": lambda root: folders(
        root, "CropDiseases/dataset/train", ("Apple___healthy", "Corn___rust", "Tomato")
    ),
    "eurosat": lambda root: folders(root, "EuroSAT/2750", ("AnnualCrop", "Forest", "River")),
    "isic": isic,
    "chestx": chestx,
}
CLASSES = {
    "crop_diseases": ("Apple___healthy", "Corn___rust", "Tomato"),
    "eurosat": ("AnnualCrop", "Forest", "River"),
    "isic": LESIONS,
    "chestx": FINDINGS,
}


def test_there_are_four():
    assert set(MAKERS) == set(TARGETS)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_labelled_image_is_a_test_image_of_its_class(tmp_path, name):
    MAKERS[name](tmp_path)
    splits = bscd_fsl(name, str(tmp_path), size=4, channels=3)
    test = splits.test
    assert test.name == f"{name}/test"
    assert sorted(test.class_names) == sorted(CLASSES[name])
    expected = [10 * CLASSES[name].index(test.class_names[label]) for label in test.labels.tolist()]
    assert test.images[:, 0, 0, 0].tolist() == expected
    each = 2 if name == "chestx" else 3
    assert test.labels.bincount().tolist() == [each] * len(CLASSES[name])
    assert test.images.shape[1:] == splits.train.images.shape[1:] == (3, 4, 4)
    assert len(splits.train) == 0 and splits.validation is None


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_missing_one_is_told_with_its_place_and_where_to_get_it(tmp_path, name):
    target = TARGETS[name]
    with pytest.raises(DataError) as caught:
        bscd_fsl(name, str(tmp_path), size=4, channels=3)
    text = str(caught.value)
    assert text.startswith(f"{name} is missing: looked for {tmp_path / target.folder / target.wanted};")
    assert "https://" in text and "SSL_RUNNER_DATA" in text


def test_a_run_is_judged_on_it_under_its_name_and_cannot_be_trained_on_it(tmp_path, by_images):
    MAKERS["eurosat"](tmp_path)
    splits = bscd_fsl("eurosat", str(tmp_path), size=8, channels=1)
    evaluator = FewShot(["3w1s"], 2, 10, 0, 4, splits)
    assert evaluator.option == "few_shot_eurosat"
    scores = evaluator(RawPixels((1, 8, 8)), by_images, torch.device("cpu"))
    assert set(scores) == {"eurosat/few_shot/3w1s/top1", "eurosat/few_shot/3w1s/ci95"}
    assert evaluator.protocol(by_images)["classes"] == "unseen"
    with pytest.raises(ConfigError, match=r"eurosat has no training images.*eval=\[few_shot_eurosat\]"):
        refuse_untrainable(splits)
    assert refuse_untrainable(by_images) is by_images


@pytest.fixture(scope="module")
def by_images() -> Splits:
    from ssl_runner.data.sources.digits import digits

    return digits("images", 0.1, 0.25, None, split_seed=0, size=None, channels=None)


def test_incomplete_folders_and_doubtful_tables_are_refused(tmp_path):
    isic(tmp_path)
    table = tmp_path / TARGETS["isic"].folder / TARGETS["isic"].wanted
    text = table.read_text()
    table.write_text(text.replace("1.0", "0.0", 1))
    with pytest.raises(DataError, match=r"marks 0 lesions for 'ISIC_0000000', expected one"):
        bscd_fsl("isic", str(tmp_path), size=4, channels=3)
    table.write_text(text)
    (tmp_path / "ISIC" / "ISIC2018_Task3_Training_Input" / "ISIC_0000003.jpg").unlink()
    with pytest.raises(DataError, match=r"its table names 'ISIC_0000003', which is not there"):
        bscd_fsl("isic", str(tmp_path), size=4, channels=3)
    with pytest.raises(
        DataError, match=r"dataset\.name='flowers': expected one of crop_diseases, eurosat, isic, chestx"
    ):
        bscd_fsl("flowers", str(tmp_path), size=4, channels=3)
