"""Right command lines of every tool, and what their arguments must not be."""

# Names in braces are files of the fixture `place` of test_fuzz_tools.py.
CONFIGS = {
    'empty.py': '',
    'syntax.py': 'model = dict(type=\n',
    'raises.py': 'model = 1 / 0',
    'exits.py': 'import sys\nsys.exit(0)',
    'imports.py': 'import no_such_module\nmodel = dict()',
    'custom.py': "custom_imports = dict(imports=['no_such_module'])",
    'based.py': "_base_ = 'gone.py'\nmodel = dict()",
    'scoped.py': "_base_ = 'mmnothing::_base_/x.py'",
    'endless.py': "_base_ = 'endless.py'",
    'no_model.py': "default_scope = 'mmdet'\ntest_dataloader = 3",
    'model_only.py': "model = dict(type='ImageClassifier')",
    'junk.py': b'\x00\xff\xfe\x89PNG' * 9,
    'latin.py': 'model = "ä"'.encode('latin-1'),
    'empty.json': '',
    'list.json': '[1, 2]',
    'deep.json': '[' * 100000,
    'junk.yaml': b'\x00\xff: [',
    'colon.yml': 'a: b: c',
    'junk.txt': 'a',
}
NO_FILE = [
    '',
    '{box}/gone.py',
    '{box}',
    '/dev/null/x',
    'a\0b',
    'x' * 5000,
    '{box}/ü \u202e/gone.json',
]
WRONG_CONFIG = [*NO_FILE, '{box}/folder.py', *('{box}/' + name for name in CONFIGS)]
WRONG_CHECKPOINT = [
    *NO_FILE,
    '{box}/empty.pth',
    '{box}/junk.pth',
    '{box}/half.pth',
    '{box}/runs_code.pth',
    '{box}/other.pth',
    '{box}/page.pth',
    '{image}',
    'http://127.0.0.1:9/x.pth',
    'nothing://x',
    's3://x/y',
]
WRONG_IMAGE = [*NO_FILE, '{box}/junk.jpg', '{box}/empty.jpg']
WRONG_OUT = ['{image}/x', '/dev/null/x', 'a\0b', 'x' * 5000, '/proc/x/y']
WRONG_DEVICE = ['cuda:7', 'xpu', 'potato', '', 'cpu:x', 'cuda:-1', 'meta', 'cuda:' + '9' * 40]
SIZES = ['0', '-1', '9' * 40]
# What none of the models can be built of.
WRONG_MODEL = [
    ['model=None'],
    ['model=3'],
    ['model=x'],
    ['model=[1,2]'],
    ['model.type=None'],
    ['model.type=NoSuchModel'],
    ['model.type=[]'],
    ['model.no_such_part=3'],
    ['model.backbone.type=NoSuchBackbone'],
    ['model.backbone=None'],
    ['model.backbone.topks=x'],
    ['model.backbone.arch=gigantic'],
    ['model.backbone.num_regions=0'],
    ['model.backbone.num_regions=nan'],
    ['model.data_preprocessor.type=NoSuch', 'data_preprocessor.type=NoSuch'],
    ['model.type.x=3'],
    ['model.backbone.0=3'],
    ['default_scope=3'],
    [
        'model.backbone.init_cfg.checkpoint={box}/junk.pth',
        'model.backbone.init_cfg.type=Pretrained',
    ],
]
# One of each kind of these, where models are built as in get_flops.py.
SOME_MODELS = WRONG_MODEL[1:-1:4]
WRONG_TRAINING = [
    ['train_dataloader=None'],
    ['train_dataloader=3'],
    ['train_dataloader.dataset=None'],
    ['train_dataloader.dataset=3'],
    ['train_dataloader.dataset.type=NoSuchDataset'],
    ['train_dataloader.dataset.type=3'],
    ['train_dataloader.dataset.data_root={box}/gone'],
    ['train_dataloader.dataset.data_root=3'],
    ['train_dataloader.dataset.data_prefix=3'],
    ['train_dataloader.dataset.no_such=3'],
    ['train_dataloader.dataset.pipeline=3'],
    ['train_dataloader.dataset.pipeline.0.type=NoSuchStep'],
    ['train_dataloader.bach_size=3'],
    ['train_dataloader.batch_size=x'],
    ['train_dataloader.batch_size=0'],
    ['train_dataloader.num_workers=-1'],
    ['train_dataloader.sampler.type=NoSuch'],
    ['optim_wrapper=None'],
    ['optim_wrapper=3'],
    ['optim_wrapper.type=NoSuch'],
    ['optim_wrapper.optimizer=None'],
    ['optim_wrapper.optimizer.type=NoSuch'],
    ['optim_wrapper.optimizer.lr=fast'],
    ['optim_wrapper.optimizer.lr=-1'],
    ['optim_wrapper.clip_grad=3'],
    ['train_cfg=None'],
    ['train_cfg=3'],
    ['train_cfg.type=NoSuch'],
    ['train_cfg.max_epochs=three'],
    ['train_cfg.val_interval=0'],
    ['optim_wrapper.accumulative_counts=0'],
    ['train_cfg.no_such=3'],
    ['param_scheduler=3'],
    ['param_scheduler.0.type=NoSuch'],
    ['param_scheduler.0.no_such=3'],
    ['custom_hooks=3'],
    ['custom_hooks=[3]'],
    ['custom_hooks=[{}]'],
    ['default_hooks=3'],
    ['default_hooks.checkpoint=3'],
    ['default_hooks.checkpoint.no_such=3'],
    ['default_hooks.checkpoint.interval=x'],
    ['default_hooks.checkpoint.type=NoSuch'],
    ['visualizer=3'],
    ['log_level=LOUD'],
    ['randomness=3'],
    ['randomness.seed=x'],
    ['env_cfg=3'],
    ['work_dir=3'],
    ['load_from={box}/gone.pth'],
    ['load_from=3'],
    ['auto_scale_lr=3'],
    ['val_dataloader=3'],
    ['val_dataloader.dataset.type=NoSuch'],
    ['val_evaluator=3'],
    ['val_evaluator.type=NoSuch'],
    ['val_cfg=3'],
    ['val_dataloader=None'],
    ['log_processor=3'],
]
WRONG_TEST = [
    ['test_dataloader=None'],
    ['test_dataloader=3'],
    ['test_dataloader.dataset=None'],
    ['test_dataloader.dataset=3'],
    ['test_dataloader.dataset.pipeline=3'],
    ['test_dataloader.dataset.pipeline=[3]'],
    ['test_dataloader.dataset.pipeline.1.type=NoSuchStep'],
]
# Through what is no dict.
KEYS = [['a=1', 'a.b=2'], ['model.type.x.y=3']]

TASKS = dict(det='retinanet_biformer_demo', seg='semantic_fpn_biformer_demo', cls='biformer_demo')
# A command that is right, word by word; and what each argument must not be.
# An argument that is no option is named by its place.
TOOLS = {
    'train.py': (
        dict(config='{cls}', **{'--work-dir': 'work'}),
        {
            'config': WRONG_CONFIG,
            '--work-dir': WRONG_OUT,
            '--resume': [[], *WRONG_CHECKPOINT[:-3]],
            '--amp': [[], 'bfloat16'],
            '--launcher': ['pytorch', 'slurm', 'mpi'],
            '--cfg-options': KEYS + SOME_MODELS + WRONG_TRAINING,
        },
    ),
    'test.py': (
        dict(config='{cls}', checkpoint='{cls_pth}', **{'--work-dir': 'work'}),
        {
            'config': WRONG_CONFIG,
            'checkpoint': [*WRONG_CHECKPOINT, '{seg_pth}'],
            '--work-dir': WRONG_OUT,
            '--show-dir': WRONG_OUT[:-1],
            '--out': [
                *WRONG_OUT,
                'x.txt',
                '/dev/null/x.pkl',
                '',
                'a\0b.pkl',
                '{image}/x.pkl',
                '{box}/folder.pkl',
            ],
            '--launcher': ['pytorch', 'slurm', 'mpi'],
            '--tta': [
                ['--cfg-options', field]
                for field in (
                    'tta_model=3',
                    'tta_model.type=NoSuch',
                    'test_dataloader.dataset.pipeline=3',
                    'test_dataloader.dataset.pipeline=[]',
                )
            ],
            '--cfg-options': KEYS
            + SOME_MODELS
            + WRONG_TEST
            + [
                ['test_evaluator=None'],
                ['test_evaluator.type=NoSuch'],
                ['test_cfg=3'],
                ['test_dataloader.batch_size=x'],
            ],
        },
    ),
    'infer.py': (
        dict(
            input='{image}',
            **{'--config': '{det}', '--checkpoint': '{det_pth}', '--out': 'out', '--device': 'cpu'},
        ),
        {
            'input': [
                *(x for x in WRONG_IMAGE if x != '{box}'),
                '{box}/empty',
                '*.nothing',
                '[',
                '{cls}',
            ],
            '--config': [*WRONG_CONFIG, '{cls}', '{seg}'],
            '--checkpoint': [*WRONG_CHECKPOINT, '{seg_pth}'],
            '--out': WRONG_OUT,
            '--task': ['seg', 'cls'],
            '--score-thr': ['nan', '-1', '1.01', 'inf'],
            '--device': WRONG_DEVICE,
            '--cfg-options': KEYS + SOME_MODELS + WRONG_TEST,
        },
    ),
    'misc/check_dataset.py': (
        dict(config='{det}'),
        {
            'config': WRONG_CONFIG,
            '--workers': SIZES[:2],
            '--json': [*WRONG_OUT, '{box}', ''],
            '--cfg-options': KEYS
            + [
                ['train_dataloader=3'],
                ['train_dataloader.dataset=None'],
                ['train_dataloader.dataset.type=NoSuch'],
                ['train_dataloader.dataset.type=3'],
                ['train_dataloader.dataset.pipeline=3'],
                ['train_dataloader.dataset.data_root={box}/gone'],
                ['train_dataloader.dataset.data_root=3'],
                ['train_dataloader.dataset.data_prefix=3'],
                ['train_dataloader.dataset.ann_file=3'],
                ['train_dataloader.dataset.no_such=3'],
                ['train_dataloader.dataset.metainfo=3'],
                ['train_dataloader=None', 'val_dataloader=None'],
                ['val_evaluator=3'],
                ['train_dataloader.dataset.metainfo.classes=3'],
            ],
        },
    ),
    'deployment/export_onnx.py': (
        dict(config='{cls}', **{'--shape': ['32', '32'], '--out': 'x.onnx'}),
        {
            'config': WRONG_CONFIG,
            'checkpoint': [*WRONG_CHECKPOINT, '{seg_pth}'],
            '--shape': [[x, '64'] for x in SIZES] + [['31', '64'], '7', 'x'],
            '--out': [*WRONG_OUT, '{box}', '{image}', ''],
            '--image': WRONG_IMAGE,
            '--cfg-options': KEYS
            + SOME_MODELS
            + WRONG_MODEL[-1:]
            + [['model.backbone.attn_backend=triton']],
        },
    ),
    'deployment/test_onnx.py': (
        dict(config='{cls}', file='{onnx}', **{'--work-dir': 'work'}),
        {
            'config': [*WRONG_CONFIG, '{det}'],
            'file': [*NO_FILE, '{image}', '{box}/empty.pth', '{box}/junk.pth'],
            '--work-dir': WRONG_OUT,
            '--launcher': ['pytorch', 'slurm', 'mpi'],
            '--cfg-options': KEYS + SOME_MODELS + WRONG_TEST,
        },
    ),
    'deployment/quantize_onnx.py': (
        dict(file='{onnx}', **{'--out': 'int8.onnx', '--static': '{cls}'}),
        {
            'file': [*NO_FILE, '{image}', '{box}/empty.pth', '{box}/junk.pth'],
            '--out': [*WRONG_OUT, '{box}', '{image}', ''],
            '--static': WRONG_CONFIG,
            '--images': ['0', '-1'],
            '--cfg-options': KEYS + SOME_MODELS + WRONG_TEST,
        },
    ),
    'analysis_tools/visualize_routing.py': (
        dict(
            images='{image}',
            **{'--config': '{det}', '--checkpoint': '{det_pth}', '--out': 'out', '--device': 'cpu'},
        ),
        {
            'images': [*WRONG_IMAGE, ['{image}', '{image}'], ['{box}/junk.jpg', '{box}/empty.jpg']],
            '--config': WRONG_CONFIG,
            '--checkpoint': [*WRONG_CHECKPOINT, '{seg_pth}'],
            '--query': ['nan,nan', 'inf,3', '9e99,0', '-50,-50', '1000,1'],
            '--stage': ['0', '5', '-1', '9' * 30],
            '--block': ['0', '7', '-9'],
            '--out': WRONG_OUT,
            '--html': [*WRONG_OUT, '{box}', ''],
            '--device': WRONG_DEVICE,
            '--cfg-options': KEYS + SOME_MODELS + WRONG_TEST,
        },
    ),
    'analysis_tools/attention_patterns.py': (
        dict(images='{image}', **{'--out': 'x.png'}),
        {
            'images': [*WRONG_IMAGE, ['{image}', '{image}']],
            '--out': [*WRONG_OUT, '{box}', 'x.jpg', ''],
            '--stage': ['0', '5', '-1', '9' * 30],
            '--query': ['28,0', '0,28', '9' * 30 + ',1'],
            '--field': WRONG_CONFIG,
        },
    ),
    'analysis_tools/get_flops.py': (
        dict(config='{cls}', **{'--shape': '64'}),
        {
            'config': WRONG_CONFIG,
            '--shape': [*SIZES, ['1', '2', '3'], '7', ['0', '64']],
            '--cfg-options': KEYS + WRONG_MODEL[:-1],
        },
    ),
    'analysis_tools/plot_logs.py': (
        dict(work_dirs='{box}/logs', **{'--out': 'x.png'}),
        {
            'work_dirs': [
                *NO_FILE,
                '{image}',
                '{box}/empty',
                '{box}/bad_logs',
                '{box}/binary_logs',
                ['{box}/logs', '{box}/logs'],
            ],
            '--out': [*(x + '.png' for x in WRONG_OUT), 'x.txt', '', '{box}/folder.png'],
            '--keys': ['nothing', ''],
            '--smooth': ['0', '-1', '2', '-' + '9' * 30],
        },
    ),
    'analysis_tools/complexity.py': (
        dict(**{'--out': 'x.png'}),
        {
            '--sizes': [
                '0',
                '-1',
                'nan',
                '1.5',
                '3x',
                'x',
                '3x3x3',
                '',
                '٣',
                '9' * 5000,
                '9' * 400,
            ],
            '--channels': ['0', '-1', '9' * 400],
            '--topk': ['0', '-1', '9' * 400],
            '--num-regions': ['0', '-1', 'nan', '1.5', '', 'AUTO', '٣x', '²', '9' * 400],
            '--out': [*(x + '.png' for x in WRONG_OUT), 'x.txt', '', '{box}/folder.png'],
        },
    ),
    'model_converters/biformer_to_mm.py': (
        dict(src='{det_pth}', dst='x.pth'),
        {
            'src': [x for x in WRONG_CHECKPOINT if 'other' not in x],
            'dst': [*WRONG_OUT, '{box}/gone/x.pth', '/dev/null/x.pth'],
            '--task': ['seg', 'cls'],
        },
    ),
    'misc/setup_env.py': (
        dict(**{'--venv': 'env'}),
        {
            '--venv': ['{image}', '{image}/x', '/dev/null/x', 'x' * 5000],
            '--lock': ['gone.txt', '', '.', '../setup.py/x', 'x' * 5000],
        },
    ),
}

# How messages call what others stand for.
SPELT = {'box': 'a box', 'image': 'image.jpg', 'seg_pth': 'seg.pth'}
