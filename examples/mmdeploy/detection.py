# For mmdeploy: box detectors of mmdet. The folder of mmdet_nms.py must be on the Python path.
_base_ = './any_size.py'
onnx_config = dict(
    output_names=['dets', 'labels'],
    dynamic_axes=dict(dets={0: 'batch', 1: 'detections'}, labels={0: 'batch', 1: 'detections'}),
)
codebase_config = dict(
    type='mmdet',
    task='ObjectDetection',
    module=['mmdet_nms'],
    # The model's test_cfg comes before these.
    post_processing=dict(
        max_output_boxes_per_class=1000,  # at least its max_per_img
        pre_top_k=-1,
        score_threshold=0.05,
        iou_threshold=0.5,
        keep_top_k=100,
    ),
)
