"""The models' base class and registry, with MMEngine and without."""

import mmengine
from mmengine.registry import MODELS
from plain_runner import run_without_openmmlab

from biformer_mm.models import BiFormer
from biformer_mm.models.mmengine_compat import BaseModule


def test_they_are_mmengines_if_it_is_installed():
    assert BaseModule is mmengine.model.BaseModule
    assert MODELS.get('BiFormer') is BiFormer


def test_substitutes_need_no_mmengine(tmp_path):
    output = run_without_openmmlab(
        """
from biformer_mm.models.mmengine_compat import BaseModule, print_log, register

class Model(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.layer = torch.nn.Linear(2, 2)

model = register(Model)()
before = model.layer.weight.clone()
model.init_weights()
print(register(Model) is Model, model.init_cfg, torch.equal(model.layer.weight, before))
try:
    Model(dict(type='Pretrained'))
except ModuleNotFoundError as error:
    print(error)
print_log('BiFormer: left out', logger='current')
""",
        cwd=tmp_path,
    )
    made, refused, logged = output.splitlines()
    assert made == 'True None True'
    assert refused.startswith('init_cfg is carried out by MMEngine, which is not installed')
    assert logged == 'BiFormer: left out'
