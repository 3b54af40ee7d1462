import cv2
import numpy as np
import simplejpeg

from data_prep.audit.near_duplicates import MAX_DISTANCE, find_pairs, look_at, perceptual_hash
from data_prep.dicom import DicomRefusal


def draw(seed):
    noise = np.random.default_rng(seed).normal(size=(24, 24)).astype(np.float32)
    smooth = cv2.resize(noise, (300, 300), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(smooth, None, 20, 220, cv2.NORM_MINMAX).astype(np.uint8)


def distance(a, b):
    return int(np.bitwise_count(perceptual_hash(a) ^ perceptual_hash(b)).sum())


def test_the_same_image_after_resizing_compression_and_contrast():
    for seed in range(5):
        image = draw(seed)
        again = cv2.resize(image, (211, 211), interpolation=cv2.INTER_AREA)
        again = simplejpeg.encode_jpeg(
            cv2.convertScaleAbs(again, alpha=0.9, beta=9)[..., None], 60, "GRAY"
        )
        assert distance(image, simplejpeg.decode_jpeg(again, "GRAY")[..., 0]) <= MAX_DISTANCE
        assert distance(image, draw(seed + 100)) > 2 * MAX_DISTANCE


def test_the_depth_makes_no_difference():
    assert distance(draw(0), draw(0).astype(np.uint16) * 257) <= 2


def test_pairs_across_blocks():
    hashes = np.random.default_rng(0).integers(0, 2**63, (1200, 4)).astype(np.uint64)
    hashes[1100] = hashes[3]
    hashes[1100, 0] ^= np.uint64(0b111)
    hashes[700] = hashes[699]
    assert find_pairs(hashes).tolist() == [[3, 1100], [699, 700]]
    assert find_pairs(hashes, max_distance=2).tolist() == [[699, 700]]


def test_an_image_that_cannot_be_read(tmp_path):
    assert isinstance(look_at(tmp_path / "none.dcm"), DicomRefusal)
