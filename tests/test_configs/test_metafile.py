"""configs/metafile.yml against the configs that it lists."""

import mmdet
import pytest
from config_checks import CONFIGS, NAMES, load
from mmengine.fileio import load as load_file
from mmengine.utils import digit_version

from biformer_mm.analysis.cost import model_cost

MODELS = load_file(CONFIGS / 'metafile.yml')['Models']
README = (CONFIGS.parent / 'README.md').read_text()


def test_lists_every_recipe_once():
    names = [name for name in NAMES if '_demo' not in name]
    assert sorted(m['Config'] for m in MODELS) == sorted(f'configs/{name}.py' for name in names)
    for model in MODELS:
        assert model['Config'].endswith(f'/{model["Name"]}.py')
        assert model['In Collection'] == 'BiFormer'


@pytest.mark.parametrize(
    'model',
    [
        pytest.param(model, marks=pytest.mark.slow)
        if 'dino' in model['Name'] or '/attention/' in model['Config']
        else model
        for model in MODELS
    ],
    ids=lambda model: model['Name'],
)
def test_parameters_and_flops(model):
    if model['Name'].startswith('dino') and (
        digit_version(mmdet.__version__) < digit_version('3.5')
    ):
        pytest.skip('mmdet before 3.5 has a smaller DINO')
    metadata = model['Metadata']
    height, width = map(int, metadata['Input Size'].split('x'))
    name = model['Config'][len('configs/') : -len('.py')]
    assert model_cost(load(name), (height, width)) == (metadata['Parameters'], metadata['FLOPs'])


@pytest.mark.parametrize(
    'model', [m for m in MODELS if m['Config'].count('/') == 1], ids=lambda model: model['Name']
)
def test_readme_has_them(model):
    metadata = model['Metadata']
    row = (
        f'| [{model["Name"]}]({model["Config"]}) '
        f'| {metadata["Parameters"] / 1e6:.1f} M '
        f'| {metadata["FLOPs"] / 1e9:.1f} G |'
    )
    assert row in README
