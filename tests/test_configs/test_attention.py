"""The configs of the other attentions, against that of bi-level routing."""

import pytest
from config_checks import CONFIGS, load
from mmengine.fileio import load as load_file

from biformer_mm.models import BiFormer
from biformer_mm.models.layers import ATTENTIONS, ROUTING

BASES = dict(
    in1k='biformer_stl_in1k', semantic_fpn_80k='attention/bi_level_routing_stl_semantic_fpn_80k'
)


def test_each_attention_has_two():
    found = {path.stem for path in (CONFIGS / 'attention').glob('*.py')}
    expected = {f'{name}_stl_{task}' for name in ATTENTIONS for task in BASES}
    assert found == expected | {f'{ROUTING}_stl_semantic_fpn_80k'}


@pytest.mark.first_tier(2)
@pytest.mark.parametrize('task', BASES)
@pytest.mark.parametrize('name', ATTENTIONS)
def test_only_the_attention_differs(name, task):
    path = f'attention/{name}_stl_{task}'
    lines = (CONFIGS / f'{path}.py').read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith('#')]) <= 6
    cfg, base = load(path), load(BASES[task])
    assert cfg.model.backbone.pop('arch') == dict(base='stl', attention=name)
    assert base.model.backbone.pop('arch') == 'stl'
    assert cfg.model.backbone.pop('num_regions') is None
    assert base.model.backbone.pop('num_regions') == (7 if task == 'in1k' else 8)
    cfg.pop('arch')  # the variable of the file
    assert cfg.to_dict() == base.to_dict()


def test_segmentor_of_bi_level_routing_is_that_of_the_layout():
    cfg = load(BASES['semantic_fpn_80k']).model
    assert (cfg.backbone.arch, cfg.backbone.num_regions) == ('stl', 8)
    assert tuple(cfg.neck.in_channels) == BiFormer.arch_zoo['stl']['embed_dims']


def test_page_has_the_counts_of_the_metafile():
    models = {
        model['Config'].rpartition('/')[2]: model['Metadata']
        for model in load_file(CONFIGS / 'metafile.yml')['Models']
    }
    page = (CONFIGS.parent / 'docs' / 'attention.md').read_text()
    for name in (ROUTING, *ATTENTIONS):
        classifier = 'biformer_stl_in1k.py' if name == ROUTING else f'{name}_stl_in1k.py'
        row = f'| `{name}` |'
        for config, digits in ((classifier, 2), (f'{name}_stl_semantic_fpn_80k.py', 1)):
            counts = models[config]
            row += f' {counts["Parameters"] / 1e6:.2f} M |'
            row += f' {counts["FLOPs"] / 1e9:.{digits}f} G |'
        assert row in page
