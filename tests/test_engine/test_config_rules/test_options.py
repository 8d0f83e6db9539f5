import pytest
from rule_checks import CLASSIFIER, DETECTOR, SEGMENTOR, problems


def _refused(name, options):
    found = problems(name, options, options=list(options))
    assert all(p.kind == 'option-without-effect' and p.file in options for p in found)
    return [p.detail for p in found]


@pytest.mark.parametrize(
    ('options', 'cure'),
    [
        ({'max_epochs': 1}, 'nothing changes; set train_cfg.max_epochs'),
        (
            {'data_root': 'elsewhere/'},
            'set train_dataloader.dataset.data_root, val_dataloader.dataset.data_root, '
            'test_dataloader.dataset.data_root',
        ),
        ({'train_pipeline.2.scale': (32, 32)}, 'set train_dataloader.dataset.pipeline.2.scale'),
        ({'metainfo.classes': ('a', 'b')}, 'set train_dataloader.dataset.metainfo.classes, '),
        ({'optim_wraper.optimizer.lr': 0.1}, 'did you mean optim_wrapper.optimizer.lr?'),
        ({'zzz': 1}, 'name a field that the run reads'),
    ],
)
def test_an_option_that_nothing_reads_is_found_with_the_field_that_is_read(options, cure):
    [detail] = _refused(DETECTOR, options)
    assert cure in detail


def test_a_preprocessor_beside_the_models_is_found():
    options = {'data_preprocessor.size': (64, 64)}
    assert not _refused(CLASSIFIER, options)  # whose model has none of its own
    [detail] = _refused(SEGMENTOR, options)
    assert detail.endswith('set model.data_preprocessor.size')


def test_only_the_fields_of_the_name_are_proposed():
    [detail] = _refused(DETECTOR, {'max_epochs': 1})
    assert detail.endswith('set train_cfg.max_epochs')  # and not val_interval, which is 16, too


@pytest.mark.parametrize(
    'options',
    [
        {'train_cfg.max_epochs': 1},
        {'model.bbox_head.num_classes': 4},
        {'train_dataloader.dataset.indices': 8},
        {'default_hooks.logger.interval': 1, 'custom_hooks': [], 'find_unused_parameters': True},
        {'load_from': None, 'resume': False, 'compile': 'blocks', 'strategy': None},
    ],
)
def test_options_that_a_run_reads_are_allowed(options):
    assert not _refused(DETECTOR, options)


def test_fields_of_the_file_itself_are_no_options():
    assert not problems(CLASSIFIER, {'data_root': 'elsewhere/'})  # set in a config, not by option
