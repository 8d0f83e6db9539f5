"""Detect, segment or classify: overlay pictures and JSON from a model.

INPUT is an image, a folder (with the folders in it), a quoted glob or a video;
there may be several. The files written are described in docs/inference.md.
"""

import argparse
import glob
import json
import os
import os.path as osp
import re
import shutil
import sys
import tempfile
from typing import Any, Iterator, List, NamedTuple

import cv2
import numpy as np
from rich.progress import Progress

from biformer_mm.apis.inference import Prediction, Predictor, build_predictor
from biformer_mm.checkpoint.mmengine_loader import read_as_data
from biformer_mm.datasets.reading import Unreadable
from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.cli import (
    add_cfg_options,
    add_device,
    add_trust,
    check_writable,
    make_parser,
    pick_device,
    usage_errors,
)
from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import UsageError
from biformer_mm.utils.quiet import quiet_known_warnings

# What to print for the library's arguments in errors.
OPTIONS = {
    'task must be': '--task must be',
    "task='auto'": '--task auto',
    "task='det', 'seg' or 'cls'": '--task det, seg or cls',
    'leave task out': 'leave --task out',
    'slice_size': '--slice',
    'overlap must': '--overlap must',
}
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
# What results add to an input's name.
JSON, OVERLAY, LABELS = '.json', '.overlay.jpg', '.labels.png'
VIDEO, FRAMES = '.overlay.mp4', '.frames'


class Input(NamedTuple):
    path: str
    target: str  # what the names of its results start with


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/infer.py data/shapes/coco/val --config '
        'configs/retinanet_biformer_demo.py --checkpoint '
        'work_dirs/retinanet_biformer_demo/epoch_16.pth  # after make demo',
    )
    parser.add_argument('input', nargs='+', metavar='INPUT', help='what to predict on')
    parser.add_argument('--config', required=True, help='path of the config')
    parser.add_argument('--checkpoint', required=True, help='path or URL of the checkpoint')
    parser.add_argument(
        '--task',
        choices=['auto', 'det', 'seg', 'cls'],
        default='auto',
        help="'auto', the default, goes by the config's framework; det is "
        'boxes, and masks if the model has them',
    )
    parser.add_argument(
        '--out',
        default='outputs',
        metavar='DIR',
        help='where the results go (default: %(default)s)',
    )
    parser.add_argument('--force', action='store_true', help='overwrite results that exist')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='leave out detections of a lower score (default: %(default)s)',
    )
    parser.add_argument(
        '--slice',
        type=int,
        metavar='PIXELS',
        help='for big pictures: detect in, or segment, squares of this size',
    )
    parser.add_argument(
        '--overlap',
        type=float,
        metavar='PART',
        help='with --slice: the part of a square that it shares with the next (default: 0.2)',
    )
    add_device(parser)
    add_cfg_options(parser)
    add_trust(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('infer.py', OPTIONS):
        if not 0 <= args.score_thr <= 1:
            raise UsageError(f'--score-thr must be from 0 to 1; got {args.score_thr}')
        if args.overlap is None:
            args.overlap = 0.2
        elif args.slice is None:
            raise UsageError('--overlap is for slices; give --slice PIXELS too, or leave it out')
        check_writable('--out', args.out, folder=True)
        inputs = find_inputs(args.input, args.out)
        if not args.force:
            check_free(inputs)
        cfg = read_config(args.config, args.cfg_options)
        read_as_data(cfg, args.trust)
        predict, names = build_predictor(
            cfg,
            args.checkpoint,
            args.task,
            pick_device(args.device),
            args.score_thr,
            args.trust,
            args.slice,
            args.overlap,
        )
        print(f'class names: {names}')
        try:
            damaged = infer(inputs, predict)
        except OSError as error:
            raise UsageError(
                f'{args.out} cannot be written ({error}); give another --out'
            ) from error
        print(f'results are in {args.out}')
        if damaged:
            print(*damaged, sep='\n', file=sys.stderr)
            raise UsageError(
                f'all files must be readable; {len(damaged)} of {len(inputs)} '
                'were not, as listed above; correct or remove them'
            )


def find_inputs(patterns: List[str], out: str) -> List[Input]:
    """The images and videos that are meant, each once, in order.

    Results are named by the paths from the inputs' common folder: a folder
    itself, an image's folder, a glob's up to its first wildcard.

    Raises:
        UsageError: A pattern stands for nothing.
    """
    paths, roots = {}, []
    for pattern in patterns:
        if osp.isfile(pattern):
            found, root = [pattern], osp.dirname(pattern)
        elif osp.isdir(pattern):
            found, root = list(images_in(pattern)), pattern
        elif not glob.has_magic(pattern):
            raise UsageError(f'INPUT must exist; there is no {pattern}')
        else:
            found = [
                path
                for path in sorted(glob.glob(pattern, recursive=True))
                if is_image(path) and osp.isfile(path)
            ]
            root = osp.dirname(re.split(r'[*?[]', pattern)[0])
        if not found:
            raise UsageError(
                f'folders and globs must have images; {pattern} has none that '
                f'end in {" ".join(IMAGES)}; name other files one by one'
            )
        paths.update((osp.abspath(path), path) for path in found)
        roots.append(osp.abspath(root))
    root = osp.commonpath(roots)
    return [Input(path, osp.join(out, osp.relpath(full, root))) for full, path in paths.items()]


def images_in(folder: str) -> Iterator[str]:
    """Images in a folder and in those in it, but hidden ones."""
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(n for n in folders if not n.startswith('.'))
        for name in sorted(files):
            if is_image(name) and not name.startswith('.'):
                yield osp.join(parent, name)


def refuse(error: OSError) -> None:
    raise UsageError(
        f'{error.filename} must be readable ({error.strerror}); '
        'give yourself the right to, or name other files'
    )


def is_image(path: str) -> bool:
    """Whether it is named like an image, and not like a result of ours."""
    return path.lower().endswith(IMAGES) and not path.endswith((OVERLAY, LABELS))


def check_free(inputs: List[Input]) -> None:
    """Refuse to overwrite results."""
    for _, target in inputs:
        for path in (target + JSON, target + FRAMES):
            if osp.exists(path):
                raise UsageError(
                    f'results are not overwritten; {path} exists; give another --out, or --force'
                )


def infer(inputs: List[Input], predict: Predictor) -> List[str]:
    """Predict and write, one after the other.

    Returns:
        A line on each input that could not be read.
    """
    damaged = []
    with Progress() as progress:
        for source in progress.track(inputs, description='Inference'):
            try:
                if source.path.lower().endswith(VIDEOS):
                    infer_video(source, predict, progress)
                else:
                    prediction = predict_on(predict.read(source.path), predict)
                    save_picture(prediction, source.target)
                    save(prediction, source.target, source=source.path)
            except Unreadable as error:
                damaged.append(f'{source.path}: {error}')
    return damaged


def predict_on(image: np.ndarray, predict: Predictor) -> Prediction:
    """Predict, or say why one image cannot be used.

    One image that a pipeline or a network cannot take, such as one of 5000 x 1 pixels, must not
    end a run over thousands.
    """
    try:
        return predict(image)
    except UsageError:
        raise
    except Exception as error:
        height, width, channels = np.atleast_3d(image).shape
        pixels = 'pixels' if channels == 3 else f'pixels of {channels} channels'
        what = str(error).strip().partition('\n')[0]
        raise Unreadable(
            f'the model does not take its {width} x {height} '
            f'{pixels} ({type(error).__name__}: {what})'
        ) from error


def infer_video(source: Input, predict: Predictor, progress: Progress) -> None:
    """Write a video and the predictions of its frames, or nothing."""
    try:
        source.target.encode()
    except UnicodeEncodeError as error:  # which would crash OpenCV
        raise Unreadable('the name of a video must be UTF-8') from error
    capture = cv2.VideoCapture(source.path)
    fps = capture.get(cv2.CAP_PROP_FPS) or 25
    total = max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0)
    folder = osp.dirname(source.target)
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.', dir=folder) as unfinished:
        frames = osp.join(unfinished, 'frames')
        overlay = osp.join(unfinished, 'overlay.mp4')
        writer, count = cv2.VideoWriter(), 0
        for image in read_frames(capture, total, progress):
            prediction = predict_on(image, predict)
            save(prediction, osp.join(frames, f'{count:06d}'), source=source.path, frame=count)
            if not count:
                writer.open(
                    overlay, cv2.VideoWriter_fourcc(*'mp4v'), fps, prediction.overlay.shape[1::-1]
                )
            writer.write(prediction.overlay)
            count += 1
        writer.release()
        if not count:
            raise Unreadable('no video, or without frames')
        if cv2.VideoCapture(overlay).get(cv2.CAP_PROP_FRAME_COUNT) != count:
            raise OSError('OpenCV could not write the video')
        shutil.rmtree(source.target + FRAMES, ignore_errors=True)
        os.replace(frames, source.target + FRAMES)
        os.replace(overlay, source.target + VIDEO)
    if count < 0.95 * total:  # which is an estimate in some formats
        raise Unreadable(f'its end is missing, {count} of about {total:.0f} frames are done')


def read_frames(
    capture: cv2.VideoCapture, total: float, progress: Progress
) -> Iterator[np.ndarray]:
    """The frames, with a bar of their own."""
    task = progress.add_task('Frames', total=total)
    try:
        there, image = capture.read()
        while there:
            yield image
            progress.advance(task)
            there, image = capture.read()
    finally:
        progress.remove_task(task)


def save_picture(prediction: Prediction, target: str) -> None:
    write(target + OVERLAY, cv2.imencode('.jpg', prediction.overlay)[1])


def save(prediction: Prediction, target: str, **about: Any) -> None:
    """Write the predictions on one image, the JSON last."""
    result = {**about, **prediction.result}
    if prediction.label_map is not None:
        result['label_map'] = osp.basename(target) + LABELS
        write(target + LABELS, cv2.imencode('.png', prediction.label_map)[1])
    text = json.dumps(result, ensure_ascii=False) + '\n'
    # A name that is no UTF-8 becomes JSON's escapes.
    write(target + JSON, text.encode('utf-8', 'backslashreplace'))


def write(path: str, content: bytes) -> None:
    """Write a file, wholly or not at all."""
    with whole_file(path) as unfinished, open(unfinished, 'wb') as file:
        file.write(content)


if __name__ == '__main__':
    main()
