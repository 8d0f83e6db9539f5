import pytest

from biformer_mm.datasets.checks.label_conventions import (
    absent_classes,
    guess_labels,
    guess_map_values,
)

NAMES = ('a', 'b', 'c')


@pytest.mark.parametrize(
    'labels, guessed',
    [
        ((1, 2, 3), True),
        ((1, 3), True),
        ((0, 1, 2), False),
        ((0, 1, 2, 3), False),
        ((1, 2), False),  # class 0 may just be absent
        ((1, 2, 3, 4), False),
        ((), False),
    ],
)
def test_lists_that_count_from_1(labels, guessed):
    problem = guess_labels('list.txt', dict.fromkeys(labels, 5), 3)
    assert (problem is not None) == guessed
    if guessed:
        assert problem.kind == 'convention' and 'they are 1 to 3' in problem.detail


@pytest.mark.parametrize(
    'values, classes, reduce_zero_label, said',
    [
        # Masks in black and white, with the ignored 255 as object
        ([0, 255], 2, False, '0 and 255: a mask in black and white'),
        ([0, 255], 150, True, '0 and 255: a mask in black and white'),
        ([0, 255], 1, False, ''),
        ([0, 1], 2, False, ''),
        ([0, 1, 255], 2, False, ''),
        ([255], 2, False, ''),
        # Count from 1
        ([1, 2, 3], 3, False, '1 to 3; set reduce_zero_label=True'),
        ([0, 1, 2, 3, 255], 3, False, '0 to 3; set reduce_zero_label=True'),
        ([0, 1, 2, 3], 3, True, ''),
        ([0, 1, 2, 4], 3, False, ''),
        # Shades of grey
        ([0, 85, 170], 3, False, '0, 85, 170: shades of grey'),
        ([0, 128], 2, False, '0, 128: shades of grey'),
        ([0, 50, 100, 150, 200, 250], 5, True, '0, 50, 100, 150, 200: shades of grey'),
        ([0, 10, 20, 30], 150, False, ''),  # labels of classes
        ([0, 50, 100, 150], 2, False, ''),  # more shades than classes
        # Cityscapes, ADE20K
        ([*range(19), 255], 19, False, ''),
        ([*range(151)], 150, True, ''),
    ],
)
def test_conventions_of_maps(values, classes, reduce_zero_label, said):
    first = int(reduce_zero_label)
    allowed = {*range(classes + first), 255}
    problem = guess_map_values(
        'maps', dict.fromkeys(values, 9), allowed, classes, reduce_zero_label
    )
    assert (problem is not None) == bool(said)
    if said:
        assert problem[:2] == ('convention', 'maps') and said in problem.detail
        assert f'must be {first} to {classes - 1 + first}; ' in problem.detail


def test_a_stray_value_is_no_convention():
    """Its map is named instead."""
    values = {0: 800, 1: 150, 2: 45, 3: 5}
    assert guess_map_values('maps', values, {0, 1, 2, 255}, 3, False) is None
    values[3] = 50
    assert guess_map_values('maps', values, {0, 1, 2, 255}, 3, False) is not None


def test_masks_of_0_and_255_where_255_is_not_ignored():
    problem = guess_map_values('maps', {0: 9, 255: 9}, {0, 1, 99}, 2, False)
    assert '0, 255: shades of grey' in problem.detail


def test_absent_classes_are_one_problem():
    def judge(present, pictures=9, classes=NAMES):
        return list(absent_classes('list.txt', classes, present, pictures, 'are lost', 'Why?'))

    assert judge({0, 1, 2}) == []
    (problem,) = judge({0, 2, 7})
    assert problem == (
        'absent-class',
        'list.txt',
        '1 of 3 classes do not occur: b; they are lost; Why?',
    )
    (problem,) = judge({2})
    assert problem.kind == 'only-one-class' and problem.severity == 'error'
    assert 'of its 3 classes only c occurs; Why?' in problem.detail
    assert 'none occurs' in judge(())[0].detail
    # Four pictures may all be of one class, and one class is all that was asked for.
    assert judge({2}, pictures=4)[0].kind == 'absent-class'
    assert judge({0}, classes=NAMES[:1]) == []
    (problem,) = judge({0, 1}, classes=[f'c{i}' for i in range(80)])
    assert '78 of 80 classes do not occur: c2, c3, c4, c5, c6 and 73 more;' in problem.detail
