# For mmdeploy: classifiers of mmpretrain, for onnxruntime, at any batch and size.
onnx_config = dict(
    type='onnx',
    save_file='end2end.onnx',
    keep_initializers_as_inputs=False,
    opset_version=17,
    input_shape=None,
    input_names=['input'],
    output_names=['output'],
    dynamic_axes=dict(input={0: 'batch', 2: 'height', 3: 'width'}, output={0: 'batch'}),
)
codebase_config = dict(type='mmpretrain', task='Classification')
backend_config = dict(type='onnxruntime')
