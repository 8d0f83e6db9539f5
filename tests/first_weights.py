"""What the first weights of a model have to be."""


def find_outliers(model, bound=6):
    """Parameters with a weight that lies further from their mean than `bound`
    times their own standard deviation: {name: how many deviations}."""
    found = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().double()
        far = (values - values.mean()).abs().max()
        if far > bound * values.std(correction=0):
            found[name] = (far / values.std(correction=0)).item()
    return found
