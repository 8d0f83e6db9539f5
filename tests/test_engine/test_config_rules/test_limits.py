import pytest
from mmengine.config import Config

from biformer_mm.engine.config_rules.limits import check_crowded, check_score_thresholds


def config(metric='CocoMetric', **test_cfg):
    return Config(
        dict(
            model=dict(
                roi_head=dict(mask_head=dict(score_thr=0.9)),
                train_cfg=dict(rpn=dict(score_thr=0.9)),
                test_cfg=test_cfg,
            ),
            test_evaluator=[dict(type='DumpResults'), dict(type=metric)],
        )
    )


@pytest.mark.parametrize(
    'test_cfg, keys',
    [
        (dict(score_thr=0.5), ['model.test_cfg.score_thr']),
        (
            dict(rpn=dict(score_thr=0.3), rcnn=[dict(score_thr=0.05), dict(score_thr=0.2)]),
            ['model.test_cfg.rpn.score_thr', 'model.test_cfg.rcnn.1.score_thr'],
        ),
        (dict(score_thr=0.1), []),
        (dict(score_thr=0.05), []),
        (dict(score_thr=0), []),
        (dict(), []),
    ],
)
def test_high_score_thresholds(test_cfg, keys):
    for metric in ('CocoMetric', 'mmdet.FasterCocoMetric'):
        problems = list(check_score_thresholds(config(metric, **test_cfg), ['test']))
        assert [problem.file for problem in problems] == keys
        assert {problem.kind for problem in problems} <= {'score-threshold'}


def test_other_metrics_may_want_a_threshold():
    """As those of panoptic segmentation and of tracking do."""
    for metric in ('CocoPanopticMetric', 'MOTChallengeMetric', 'DumpODVGResults'):
        assert list(check_score_thresholds(config(metric, score_thr=0.6), ['test'])) == []
    assert list(check_score_thresholds(config(score_thr=0.6), ['val'])) == []  # none to evaluate


def content(*counts, **fields):
    return dict(
        images=[dict(id=i) for i in range(len(counts))],
        annotations=[
            dict(image_id=i, **fields) for i, count in enumerate(counts) for _ in range(count)
        ],
    )


def test_crowded_images():
    (problem,) = check_crowded('val.json', content(300, 100, 20), config())
    assert (problem.kind, problem.file) == ('crowded', 'val.json')
    assert problem.detail.startswith('1 of 3 images have more than 100 objects')
    assert '48% of the objects cannot be found' in problem.detail  # 200 of 420


def test_a_lower_limit_of_the_model_counts():
    for test_cfg in (dict(max_per_img=50), dict(rcnn=dict(max_per_img=50))):
        (problem,) = check_crowded('val.json', content(100, 20), config(**test_cfg))
        assert 'more than 50 objects' in problem.detail
    # Proposals are no detections, and mAP counts 100 of 300.
    for test_cfg in (dict(rpn=dict(max_per_img=50)), dict(max_per_img=300)):
        assert list(check_crowded('val.json', content(100, 20), config(**test_cfg))) == []


def test_images_that_are_not_crowded():
    for each in (content(), content(100, 100), content(101, *[90] * 20), dict(images=[])):
        assert list(check_crowded('val.json', each, config())) == []
    assert list(check_crowded('val.json', content(300, iscrowd=1), config())) == []
