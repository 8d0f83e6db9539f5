# For mmdeploy: segmentors of mmseg, for onnxruntime, at any batch and size. The folder
# of upsampling.py must be on the Python path.
onnx_config = dict(
    type='onnx',
    save_file='end2end.onnx',
    keep_initializers_as_inputs=False,
    opset_version=17,
    input_shape=None,
    input_names=['input'],
    output_names=['output'],
    dynamic_axes=dict(
        input={0: 'batch', 2: 'height', 3: 'width'}, output={0: 'batch', 2: 'height', 3: 'width'}
    ),
)
# Scores of all classes; with_argmax=True gives class numbers.
codebase_config = dict(type='mmseg', task='Segmentation', with_argmax=False, module=['upsampling'])
backend_config = dict(type='onnxruntime')
