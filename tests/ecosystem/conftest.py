"""Collect nothing here unless all packages of `make test-ecosystem` are installed."""

import os
import tempfile
from importlib.util import find_spec

PACKAGES = (
    'accelerate',
    'fvcore',
    'mim',
    'mmdeploy',
    'mmpose',
    'mmrotate',
    'openvino',
    'ptflops',
    'pytorch_grad_cam',
    'pytorch_lightning',
    'sahi',
    'torchao',
    'torchinfo',
    'ultralytics',
)
if not all(map(find_spec, PACKAGES)):
    collect_ignore_glob = ['test_*.py']

# ultralytics reads them on import. It shall install and download nothing, and leave the user's
# folders alone.
os.environ['YOLO_OFFLINE'] = 'true'
os.environ['YOLO_AUTOINSTALL'] = 'false'
os.environ.setdefault('YOLO_CONFIG_DIR', tempfile.mkdtemp())
