"""For mmdeploy: choose boxes as mmdet does.

mmdeploy 1.5.2 exports three shortcuts that change detections. Before NMS it keeps the best anchors
with all their classes, mmdet the best pairs of anchor and class. It suppresses proposals that
overlap one of another level of the pyramid. And of the boxes that a region predicts, one for each
class, it keeps that of the best class only. These rewriters export what mmdet computes.

Shapes: N batch, P boxes, C classes, A anchors of a level.
"""

from typing import Any, Iterator, List, Optional, Tuple

import torch
from mmdeploy.core import FUNCTION_REWRITER
from mmdeploy.mmcv.ops import multiclass_nms
from torch import Tensor


@FUNCTION_REWRITER.register_rewriter(
    'mmdet.models.dense_heads.base_dense_head.BaseDenseHead.predict_by_feat', backend='onnxruntime'
)
def one_stage_detections(
    self,
    cls_scores: List[Tensor],
    bbox_preds: List[Tensor],
    score_factors: Optional[List[Tensor]] = None,
    batch_img_metas: Optional[List[dict]] = None,
    cfg: Any = None,
    **kwargs: Any,
) -> Tuple[Tensor, Tensor]:
    """Choose the boxes of a one-stage detector.

    Returns:
        Boxes with scores, (N, P, 5), best first, and their classes, (N, P).
    """
    cfg = cfg or self.test_cfg
    if score_factors is not None or not self.use_sigmoid_cls:
        raise ValueError(
            'mmdet_nms.py is for heads with sigmoid scores and no score factors; got '
            f'{type(self).__name__}; remove it from codebase_config.module'
        )
    levels = list(_candidates(self, cls_scores, bbox_preds, batch_img_metas, cfg))
    boxes, scores, classes = (torch.cat(x, 1) for x in zip(*levels))
    each = torch.arange(self.num_classes, device=classes.device)
    return multiclass_nms(
        boxes,
        scores.unsqueeze(-1) * (classes.unsqueeze(-1) == each),
        cfg.max_per_img,
        iou_threshold=_iou_threshold(cfg.nms),
        score_threshold=cfg.score_thr,
        keep_top_k=cfg.max_per_img,
    )


@FUNCTION_REWRITER.register_rewriter(
    'mmdet.models.dense_heads.rpn_head.RPNHead.predict_by_feat', backend='onnxruntime'
)
def region_proposals(
    self,
    cls_scores: List[Tensor],
    bbox_preds: List[Tensor],
    score_factors: Optional[List[Tensor]] = None,
    batch_img_metas: Optional[List[dict]] = None,
    cfg: Any = None,
    **kwargs: Any,
) -> Tuple[Tensor, Tensor]:
    """Suppress proposals within their level.

    Returns:
        Boxes with scores, (N, P, 5), best first, and their classes, (N, P) zeros.
    """
    cfg = cfg or self.test_cfg
    levels = []
    for boxes, scores, _ in _candidates(self, cls_scores, bbox_preds, batch_img_metas, cfg):
        boxes, _ = multiclass_nms(
            boxes,
            (scores * _is_box(boxes)).unsqueeze(-1),
            cfg.max_per_img,
            iou_threshold=_iou_threshold(cfg.nms),
            score_threshold=0.0,
            keep_top_k=cfg.max_per_img,
        )
        levels.append(boxes)
    boxes, _ = _best(torch.cat(levels, 1), cfg.max_per_img)
    return boxes, boxes.new_zeros(boxes.shape[:2], dtype=torch.long)


def _candidates(
    head: Any,
    cls_scores: List[Tensor],
    bbox_preds: List[Tensor],
    batch_img_metas: List[dict],
    cfg: Any,
) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
    """Yield the best boxes of each level, (N, P, 4), with their scores and classes, (N, P)."""
    anchors = head.prior_generator.grid_priors(
        [x.shape[-2:] for x in cls_scores], device=cls_scores[0].device
    )
    for scores, deltas, priors in zip(cls_scores, bbox_preds, anchors):
        batch = scores.shape[0]
        scores = scores.permute(0, 2, 3, 1).reshape(batch, -1).sigmoid()  # (N, A*C)
        scores, index = scores.topk(cfg.nms_pre)
        anchor = torch.div(index, head.cls_out_channels, rounding_mode='floor')
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        deltas = deltas.gather(1, anchor.unsqueeze(-1).expand(-1, -1, 4))
        boxes = head.bbox_coder.decode(
            priors[anchor], deltas, max_shape=batch_img_metas[0]['img_shape']
        )
        yield boxes, scores, index % head.cls_out_channels


@FUNCTION_REWRITER.register_rewriter(
    'mmdet.models.roi_heads.bbox_heads.bbox_head.BBoxHead.predict_by_feat', backend='onnxruntime'
)
def two_stage_detections(
    self,
    rois: Tensor,
    cls_scores: Tensor,
    bbox_preds: Tensor,
    batch_img_metas: List[dict],
    rcnn_test_cfg: Any = None,
    rescale: bool = False,
) -> Tuple[Tensor, Tensor]:
    """Choose among the boxes of every class.

    Returns:
        Boxes with scores, (N, P, 5), best first, and their classes, (N, P).
    """
    classes = self.num_classes
    boxes = self.bbox_coder.decode(
        rois[..., 1:], bbox_preds, max_shape=batch_img_metas[0]['img_shape']
    )
    batch, count = boxes.shape[:2]
    boxes = boxes.reshape(batch, count, -1, 4).expand(-1, -1, classes, -1)
    # Images with few proposals are filled up with zeros.
    scores = cls_scores.softmax(-1)[..., :classes] * _is_box(rois[..., 1:]).unsqueeze(-1)
    # Each class of an image is an image of its own.
    boxes, _ = multiclass_nms(
        boxes.transpose(1, 2).reshape(-1, count, 4),
        scores.transpose(1, 2).reshape(-1, count, 1),
        rcnn_test_cfg.max_per_img,
        iou_threshold=_iou_threshold(rcnn_test_cfg.nms),
        score_threshold=rcnn_test_cfg.score_thr,
        keep_top_k=rcnn_test_cfg.max_per_img,
    )
    kept = boxes.shape[1]
    boxes, index = _best(boxes.reshape(batch, -1, 5), rcnn_test_cfg.max_per_img)
    return boxes, torch.div(index, kept, rounding_mode='floor')


def _iou_threshold(nms: dict) -> float:
    if nms.get('type', 'nms') != 'nms':
        raise ValueError(f"test_cfg must have nms=dict(type='nms') to be exported; got {nms}")
    return nms['iou_threshold']


def _best(boxes: Tensor, count: int) -> Tuple[Tensor, Tensor]:
    """Return the boxes (N, P, 5) of the highest scores, best first, and their index (N, P)."""
    _, index = boxes[..., 4].topk(count)
    return boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 5)), index


def _is_box(boxes: Tensor) -> Tensor:
    """Whether boxes (..., 4) have an area, (...)."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
