from sde_diffusion.data.sources.digits import digits

_SOURCES = {"digits": digits}


def load(name, **fields):
    return _SOURCES[name](**fields)
