"""Models behind the umbridge package's own server, started as ``python models_for_umbridge.py PORT``."""

import functools
import math
import sys
import time

import umbridge
from aiohttp import web


def normal(x: list[float], mean: tuple[float, float], variance: float) -> float:
    square = (x[0] - mean[0]) ** 2 + (x[1] - mean[1]) ** 2
    return -0.5 * square / variance - math.log(2.0 * math.pi * variance)


def banana(x: list[float]) -> float:
    a, b = 2.0, 0.2
    y, z = x[0] / a, x[1] * a + a * b * (x[0] ** 2 + a**2) - 4.0
    return -0.5 * (y**2 - y * z + z**2) / 0.75 - math.log(2.0 * math.pi * math.sqrt(0.75))


def donut(x: list[float]) -> float:
    return -((math.hypot(*x) - 2.6) ** 2) / 0.033


def mixture(x: list[float]) -> float:
    parts = [normal(x, (-1.5, -1.5), 0.8), normal(x, (1.5, 1.5), 0.8), normal(x, (-2.0, 2.0), 0.5)]
    return math.log(sum(map(math.exp, parts)))


def funnel(x: list[float]) -> float:
    first = -0.5 * (x[0] / 3.0) ** 2 - math.log(3.0 * math.sqrt(2.0 * math.pi))
    return first - 0.5 * x[1] ** 2 / math.exp(x[0]) - 0.5 * x[0] - 0.5 * math.log(2.0 * math.pi)


class Density(umbridge.Model):
    """One log density of two inputs."""

    def __init__(self, function):
        super().__init__(function.__name__)
        self.function = function

    def get_input_sizes(self, config):
        return [2]

    def get_output_sizes(self, config):
        return [1]

    def __call__(self, parameters, config):
        return [[self.function(parameters[0])]]

    def supports_evaluate(self):
        return True


class Several(umbridge.Model):
    """Two input vectors, two output vectors, a config and a gradient; its size follows the config."""

    def __init__(self):
        super().__init__("several")

    def get_input_sizes(self, config):
        return [2, 1]

    def get_output_sizes(self, config):
        return [config.get("length", 3), 1]

    def __call__(self, parameters, config):
        (a, b), (c,) = parameters
        scale = config.get("scale", 1.0)
        return [[scale * a * b * i + c for i in range(config.get("length", 3))], [a * c**2 + config.get("seed", 0)]]

    def gradient(self, out_wrt, in_wrt, parameters, sens, config):
        (a, b), (c,) = parameters
        scale = config.get("scale", 1.0)
        if out_wrt == 0:
            slope = scale * sum(i * s for i, s in enumerate(sens))
            return [slope * b, slope * a] if in_wrt == 0 else [sum(sens)]
        return [sens[0] * c**2, 0.0] if in_wrt == 0 else [sens[0] * 2.0 * a * c]

    def supports_evaluate(self):
        return True

    def supports_gradient(self):
        return True


class Bad(umbridge.Model):
    """Goes wrong as its input says."""

    def __init__(self):
        super().__init__("bad")

    def get_input_sizes(self, config):
        return [1]

    def get_output_sizes(self, config):
        return [2]

    def __call__(self, parameters, config):
        match int(parameters[0][0]):
            case 1:
                return [[1.5, math.nan]]
            case 2:
                return [[-math.inf, math.nan]]
            case 3:
                raise ValueError("the mesh is tangled")
            case 4:
                return [[1.0, 2.0, 3.0]]
            case 5:
                time.sleep(1)
        return [[1.0, 2.0]]

    def supports_evaluate(self):
        return True


class Silent(umbridge.Model):
    """Offers nothing."""

    def __init__(self):
        super().__init__("silent")


if __name__ == "__main__":
    web.run_app = functools.partial(web.run_app, host="127.0.0.1", print=None)  # the package binds every interface
    densities = [Density(function) for function in (banana, donut, mixture, funnel)]
    umbridge.serve_models([*densities, Several(), Bad(), Silent()], int(sys.argv[1]), max_workers=2)
