"""What the steps measure: on a GPU, and to show on a CPU that they run."""

from typing import Dict, NamedTuple, Tuple

from problems import Problem, stage_problems

SWIN = 'timm:swin_tiny_patch4_window7_224'


class Network(NamedTuple):
    """BiFormer and Swin-T at one task.

    Attributes:
        preset: 'detection' or 'classification'.
        biformer, swin: As ``networks.build`` takes them, without a backend or an attention.
        size: (H, W) of the images.
        cases: (mode, whether in a CUDA graph, batch) by name.
    """

    preset: str
    biformer: str
    swin: str
    size: Tuple[int, int]
    cases: Dict[str, Tuple[str, bool, int]]


class Sizes(NamedTuple):
    """Sizes, dtypes and lengths of all steps.

    Attributes:
        device: 'cuda' or 'cpu'.
        dtype: Of what is timed.
        dtypes: Those whose correctness is checked, in this order.
        copy: Bytes of the copy that measures the bandwidth.
        product: Side of the matrices that measure the arithmetic.
        stages: The op's problems, by size of the image.
        corners: Problems that are checked besides.
        networks: By name.
        maps: (N, H, W, C, S, k) of the probes.
        growth: Sides of images, in pixels, and the backend.
        tests: Arguments of pytest.
        workers: Processes that compile.
        repeats: Readings of each time.
        seconds: Length of a reading.
    """

    device: str
    dtype: str
    dtypes: Tuple[str, ...]
    copy: int
    product: int
    stages: Dict[str, Tuple[Problem, ...]]
    corners: Dict[str, Problem]
    networks: Dict[str, Network]
    maps: Tuple[Tuple[int, ...], ...]
    growth: Tuple[Tuple[int, ...], str]
    tests: Tuple[str, ...]
    workers: int
    repeats: int
    seconds: float


FULL = Sizes(
    device='cuda',
    dtype='bf16',
    dtypes=('bf16', 'fp16', 'fp32'),
    copy=4 * 10**9,
    product=8192,
    stages={
        '800x1333': tuple(stage_problems((800, 1333), 16, 'small', 2)),
        '224': tuple(stage_problems((224, 224), 7, 'small', 128)),
        '512': tuple(stage_problems((512, 512), 8, 'small', 16)),
    },
    corners={
        'T=49': Problem(2, 28, 28, 64, 4, 2),
        'T=273, masked': Problem(2, 51, 83, 64, 4, 2, masked=True),
        'regions routed twice': Problem(2, 56, 56, 64, 7, 4, repeated=True),
        'd=24': Problem(2, 50, 84, 72, 8, 4, head_dim=24),
        'd=96, full': Problem(8, 7, 7, 768, 1, None),
    },
    networks=dict(
        stl=Network(
            'classification',
            'biformer:stl,num_regions=7',
            SWIN,
            (224, 224),
            dict(inference=('inference', False, 128), training=('training', False, 128)),
        ),
        small=Network(
            'detection',
            'biformer:small,num_regions=16',
            SWIN,
            (800, 1333),
            {
                'inference': ('inference', False, 1),
                'inference in a graph': ('inference', True, 1),
                'training': ('training', False, 2),
            },
        ),
        attention=Network(
            'classification',
            'biformer:stl',
            SWIN,
            (224, 224),
            dict(inference=('inference', False, 128), training=('training', False, 128)),
        ),
    ),
    maps=((128, 56, 56, 96, 7, 1), (2, 64, 96, 256, 16, 16)),
    growth=((224, 384, 512, 768, 1024, 1536, 2048), 'triton'),
    # Without those of pages and of compiling for other GPUs.
    tests=(
        'tests/test_ops',
        'tests/test_models/test_compile.py',
        '--ignore=tests/test_ops/test_tolerances.py',
        '--ignore=tests/test_ops/test_backends/test_triton_aot.py',
    ),
    workers=8,
    repeats=5,
    seconds=0.02,
)

# The interpreter, which stands in for a GPU, has no bf16 products and takes
# long for each program of a kernel: there is one per region and head.
_ARCH = (
    "arch={'embed_dims': (16, 16), 'depths': (1, 1), 'topks': (1, 1), "
    "'mlp_ratio': 2, 'head_dim': 16, "
)
_SWIN = f'{SWIN},embed_dim=8,depths=(1,1,1,1),num_heads=(1,1,1,1),img_size='

DRY = Sizes(
    device='cpu',
    dtype='fp16',
    dtypes=('fp16',),
    copy=10**6,
    product=64,
    stages={'16': (Problem(1, 4, 4, 32, 1, 1),)},
    corners={
        'masked': Problem(1, 3, 4, 32, 2, 2, masked=True),
        'regions routed twice': Problem(1, 4, 4, 32, 2, 3, repeated=True),
        'd=24': Problem(1, 4, 4, 24, 1, 1, head_dim=24),
    },
    networks=dict(
        stl=Network(
            'classification',
            f"biformer:stl,{_ARCH}'stem': 'patch', 'pos_conv': False}},"
            'out_indices=(1,),num_regions=1',
            _SWIN + '32',
            (32, 32),
            dict(inference=('inference', False, 1), training=('training', False, 1)),
        ),
        small=Network(
            'detection',
            f"biformer:small,{_ARCH}'stem': 'conv', 'pos_conv': True}},"
            'out_indices=(0,1),num_regions=1',
            _SWIN + '(32,36)',
            (32, 35),
            {
                'inference': ('inference', False, 1),
                'inference in a graph': ('inference', True, 1),
                'training': ('training', False, 1),
            },
        ),
        attention=Network(
            'classification',
            f"biformer:stl,{_ARCH}'stem': 'patch', 'pos_conv': False}},out_indices=(1,)",
            _SWIN + '32',
            (32, 32),
            dict(inference=('inference', False, 1), training=('training', False, 1)),
        ),
    ),
    maps=((2, 8, 8, 32, 2, 2),),
    growth=((64,), 'sdpa'),
    tests=('tests/test_ops/test_backends', '-k', 'reciprocals or refuses_maps'),
    workers=1,
    repeats=1,
    seconds=1e-4,
)
