"""The kinds of problems of a data set, and how severe they are."""

from typing import NamedTuple

SEVERITIES = ('note', 'warning', 'error')

# error: training stops, or trains or evaluates on wrong data; warning: some data
# is dropped or changed; note: harmless, but worth knowing.
KINDS = {
    # files
    'missing': 'error',
    'empty-file': 'error',
    'no-image': 'error',
    'truncated': 'error',
    'corrupt': 'error',
    'damaged': 'warning',
    'cmyk': 'warning',
    '16-bit': 'warning',
    'alpha': 'warning',
    'tiny': 'warning',
    'grey': 'note',
    'exif-rotated': 'note',
    'wrong-extension': 'note',
    # a whole data set
    'no-images': 'error',
    'class-count': 'error',
    'count': 'error',
    # annotations in COCO's format
    'json': 'error',
    'field': 'error',
    'duplicate-image-id': 'error',
    'duplicate-annotation-id': 'error',
    'unknown-category': 'error',
    'class-missing': 'error',
    'class-twice': 'error',
    'class-order': 'error',
    'no-objects': 'error',
    'size': 'error',
    'box-missing': 'error',
    'box-invalid': 'error',
    'mask-missing': 'error',
    'mask-invalid': 'error',
    'polygon': 'error',
    'box-empty': 'warning',
    'box-outside': 'warning',
    'area': 'warning',
    'unknown-image': 'warning',
    'duplicate-file': 'warning',
    'box-over-edge': 'note',
    'image-without-objects': 'note',
    'unused-category': 'note',
    # segmentation maps
    'map-missing': 'error',
    'map-size': 'error',
    'map-channels': 'error',
    'map-label': 'error',
    'map-unlabelled': 'note',
    'map-unused': 'note',
    # classification
    'list-line': 'error',
    'label': 'error',
    'empty-class': 'warning',
    # label maps of token labelling
    'label-map-missing': 'error',
    'label-map': 'error',
    'label-map-shared': 'error',
    'label-map-unused': 'note',
}


class Problem(NamedTuple):
    """Something wrong with a file; ``kind`` is one of :data:`KINDS`."""

    kind: str
    file: str
    detail: str

    @property
    def severity(self) -> str:
        """One of :data:`SEVERITIES`."""
        return KINDS[self.kind]
