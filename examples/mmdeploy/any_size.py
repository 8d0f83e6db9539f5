# What the deploy configs share: a file for onnxruntime, any batch and size.
onnx_config = dict(
    type='onnx',
    save_file='end2end.onnx',
    keep_initializers_as_inputs=False,
    # Below 16 RoI Align is approximate; mmdeploy's layer norm is invalid from 18 on.
    opset_version=17,
    input_shape=None,
    input_names=['input'],
    output_names=['output'],
    dynamic_axes=dict(input={0: 'batch', 2: 'height', 3: 'width'}),
)
backend_config = dict(type='onnxruntime')
