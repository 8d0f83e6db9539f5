# For mmdeploy: Mask R-CNN. The file gives masks of 28 x 28, which mmdeploy's model
# pastes into the image.
_base_ = './detection.py'
onnx_config = dict(
    output_names=['dets', 'labels', 'masks'], dynamic_axes=dict(masks={0: 'batch', 1: 'detections'})
)
