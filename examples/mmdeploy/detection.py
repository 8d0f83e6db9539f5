# For mmdeploy: box detectors of mmdet, for onnxruntime, at any batch and size. The folder
# of mmdet_nms.py must be on the Python path.
onnx_config = dict(
    type='onnx',
    save_file='end2end.onnx',
    keep_initializers_as_inputs=False,
    # Below 16 RoI Align is approximate; mmdeploy's layer norm is invalid from 18 on.
    opset_version=17,
    input_shape=None,
    input_names=['input'],
    output_names=['dets', 'labels'],
    dynamic_axes=dict(
        input={0: 'batch', 2: 'height', 3: 'width'},
        dets={0: 'batch', 1: 'detections'},
        labels={0: 'batch', 1: 'detections'},
    ),
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
backend_config = dict(type='onnxruntime')
