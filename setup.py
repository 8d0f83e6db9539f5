"""Installs biformer_mm.

Imports no torch, and asks pip for none: the environment's own torch and
OpenMMLab stay as they are.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
README = ROOT / 'README.md'


def read_version():
    """The version as text: importing the package would import torch."""
    source = (ROOT / 'biformer_mm' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", source, re.MULTILINE).group(1)


def read_requirements(name):
    """Return the requirements in requirements/NAME.txt and in files included by ``-r``."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    requirements = []
    for line in filter(None, (line.partition('#')[0].strip() for line in lines)):
        included = re.fullmatch(r'-r (.+)\.txt', line)
        requirements += read_requirements(included.group(1)) if included else [line]
    return requirements


extras = {
    name: read_requirements(name) for name in ('det', 'seg', 'cls', 'coco', 'optional', 'tests')
}
extras['all'] = sorted(
    {requirement for requirements in extras.values() for requirement in requirements}
)

setup(
    name='biformer_mm',
    version=read_version(),
    description='BiFormer and bi-level routing attention for OpenMMLab',
    long_description=README.read_text(encoding='utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['biformer_mm', 'biformer_mm.*']),
    include_package_data=True,
    python_requires='>=3.8',
    install_requires=read_requirements('runtime'),
    extras_require=extras,
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
