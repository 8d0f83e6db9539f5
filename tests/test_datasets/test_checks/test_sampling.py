import cv2
import numpy as np
import pytest

from biformer_mm.datasets.checks.sampling import check_sample

LOADING = [dict(type='LoadImageFromFile')]


class DataSet:
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=str(self.paths[index]))


@pytest.fixture
def write(tmp_path):
    """Write pictures of a highest value; return a data set of them."""

    def make(*highest, kind=np.uint16):
        paths = [tmp_path / f'{number}.png' for number in range(len(highest))]
        for path, value in zip(paths, highest):
            image = np.linspace(0, value, 40 * 40 * 3).astype(kind).reshape(40, 40, 3)
            path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
        return DataSet(paths)

    return make


def test_pictures_that_are_all_dark_are_one_problem(write):
    (problem,) = check_sample(write(*[4095] * 8), LOADING, annotated=False)
    assert problem.kind == 'dark'
    assert problem.detail.endswith('(so are all of 5 pictures that were looked at)')


@pytest.mark.parametrize(
    'highest, kind',
    [([], np.uint16), ([65535] * 6, np.uint16), ([4095, 65535], np.uint16), ([9] * 6, np.uint8)],
)
def test_other_pictures_are_right(write, highest, kind):
    assert list(check_sample(write(*highest, kind=kind), LOADING, annotated=False)) == []


def test_what_cannot_be_read_is_left_to_the_training(write, tmp_path):
    gone = DataSet([tmp_path / 'gone.png'])
    assert list(check_sample(gone, LOADING, annotated=False)) == []
