"""Our configs by the name biformer_mm::, for MMEngine and its hub."""

import pytest
from mmengine.config import Config
from mmengine.hub import get_config, get_model
from tool_runner import ROOT, run_tool

from biformer_mm.models import BiFormer
from biformer_mm.utils.packages import find_own_configs

NAMES = ['retinanet_biformer_s_1x', 'semantic_fpn_biformer_s_80k', 'biformer_s_in1k']


def inherit(folder, name):
    path = folder / 'mine.py'
    path.write_text(f"_base_ = 'biformer_mm::{name}'\nmine = 1\n")
    return Config.fromfile(path)


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('name', NAMES)
def test_base_is_the_config(name, tmp_path):
    """It is built by its framework: no scope of ours gets in."""
    cfg = inherit(tmp_path, f'{name}.py').to_dict()
    assert cfg.pop('mine') == 1
    assert cfg == Config.fromfile(ROOT / 'configs' / f'{name}.py').to_dict()


@pytest.mark.slow
def test_tools_know_the_prefix(tmp_path):
    inherit(tmp_path, f'{NAMES[0]}.py')
    output = run_tool('train.py', 'mine.py', cwd=tmp_path, ok=False)
    assert 'train.py: error: data not found: data/coco/' in output


def test_base_in_a_folder(tmp_path):
    cfg = inherit(tmp_path, '_base_/biformer_det.py')
    assert cfg.biformer.type == 'BiFormer'


def test_missing_base_says_where_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        inherit(tmp_path, 'retinanet.py')
    assert str(error.value) == (
        'there is no config biformer_mm::retinanet.py; biformer_mm has those '
        f'in {ROOT / "biformer_mm" / ".mim" / "configs"}'
    )


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('name', NAMES)
def test_hub_gets_the_config(name):
    cfg = get_config(f'biformer_mm::{name}.py')
    assert cfg.to_dict() == Config.fromfile(ROOT / 'configs' / f'{name}.py').to_dict()


@pytest.mark.first_tier(1)
@pytest.mark.parametrize('name', NAMES)
def test_hub_builds_the_model(name):
    model = get_model(f'biformer_mm::{name}.py')
    framework = get_config(f'biformer_mm::{name}.py').default_scope
    assert type(model).__module__.split('.')[0] == framework
    assert isinstance(model.backbone, BiFormer)


def test_names_of_other_packages_are_mmengines(tmp_path):
    find_own_configs()  # once more changes nothing
    name = 'retinanet/retinanet_r50_fpn_1x_coco.py'
    (tmp_path / 'mine.py').write_text(f"_base_ = 'mmdet::{name}'")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.backbone.type == 'ResNet'
    assert cfg.model._scope_ == 'mmdet'
    assert get_config(f'mmdet::{name}').model.backbone.type == 'ResNet'
    with pytest.raises(ValueError, match='relative config path'):
        get_config('mmdet::retinanet_r50_fpn_1x_coco.py')
