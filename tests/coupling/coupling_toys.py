"""Small models with known optima, for the tests of coupling."""

import copy

import numpy as np
import torch
from torch import nn


class Tensors(nn.Module):
    """A module that is nothing but named tensors, in float64."""

    def __init__(self, **tensors):
        super().__init__()
        for name, values in tensors.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(values).double()))


class Net(nn.Module):
    """A trunk with BatchNorm and dropout, and a classifier; small images of 6 x 6."""

    def __init__(self, classes=3, dropout=0.2):
        super().__init__()
        self.block_1 = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout)
        )
        self.block_2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.Flatten()
        self.classifier = nn.Linear(16, classes)

    def forward(self, x):
        return self.classifier(self.pool(self.block_2(self.block_1(x))))


def made(module, optimizer, count=2):
    """Give {name: (copy of the module, its optimizer)}; one function for all, or one for each."""
    functions = optimizer if isinstance(optimizer, list) else [optimizer] * count
    modules = [copy.deepcopy(module) for _ in functions]
    pairs = zip(modules, functions, strict=True)
    return {
        name: (module, make(module.parameters()))
        for name, (module, make) in zip("abcd", pairs, strict=False)
    }


def sgd(lr, **settings):
    return lambda parameters: torch.optim.SGD(parameters, lr, **settings)


def adam(lr, **settings):
    return lambda parameters: torch.optim.Adam(parameters, lr, **settings)


def adamw(lr, **settings):
    return lambda parameters: torch.optim.AdamW(parameters, lr, **settings)


def backward(module, optimum, curvature=1.0):
    """Make the gradients of ``sum(curvature / 2 * (w - optimum)**2)`` over all tensors."""
    module.zero_grad()
    sum((curvature / 2 * (p - optimum).square()).sum() for p in module.parameters()).backward()


def train(models, coupling, steps, optima, curvatures=None):
    """Train on quadratics, model i with optimum i."""
    curvatures = curvatures or [1.0] * len(models)
    for _ in range(steps):
        for (module, _), *loss in zip(models.values(), optima, curvatures, strict=True):
            backward(module, *loss)
        coupling.step()


def consensus(strength, optima, curvatures=None, decays=None):
    """Solve ``c_i (w_i - t_i) + decay_i w_i + 2 strength sum_j (w_i - w_j) = 0`` for all w_i."""
    count = len(optima)
    curvatures = np.ones(count) if curvatures is None else np.asarray(curvatures, float)
    decays = np.zeros(count) if decays is None else np.asarray(decays, float)
    pull = 2 * strength * (count * np.eye(count) - np.ones((count, count)))
    return np.linalg.solve(np.diag(curvatures + decays) + pull, curvatures * np.asarray(optima))


def joint(weights, steps, strength):
    """Solve the joint proximal step by its normal equations, element by element, in float64.

    Minimum over w of ``sum_i (w_i - u_i)**2 / (2 D_i) + strength * sum_{i<j} (w_i - w_j)**2``.
    """
    count = len(weights)
    weights = [np.asarray(w, np.float64) for w in weights]
    steps = [np.broadcast_to(np.asarray(d, np.float64), weights[0].shape) for d in steps]
    found = np.empty((count, *weights[0].shape))
    for at in np.ndindex(weights[0].shape):
        scale = np.diag([float(d[at]) for d in steps])
        pull = 2 * strength * (count * np.eye(count) - np.ones((count, count)))
        u = np.array([w[at] for w in weights])
        found[(slice(None), *at)] = np.linalg.solve(np.eye(count) + scale @ pull, u)
    return list(found)


def images(count, classes=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 6, 6, generator=generator, dtype=dtype)
    return x, torch.randint(classes, (count,), generator=generator)


def values(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def weights_of(models, name="w"):
    return [module.get_parameter(name).detach().numpy().copy() for module, _ in models.values()]


def assert_weights(models, expected, name="w", rtol=1e-11):
    for found, value in zip(weights_of(models, name), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=rtol, atol=1e-14)


def step_all(models, optima=(1.0, -1.0, 0.5)):
    for (module, optimizer), optimum in zip(models.values(), optima, strict=False):
        backward(module, optimum)
        optimizer.step()


def adam_steps(models, rates, name="w"):
    """Give D of Adam by its formula, in float64, from the gradients that were seen."""
    found = []
    for (module, optimizer), rate in zip(models.values(), rates, strict=True):
        state, group = optimizer.state[module.get_parameter(name)], optimizer.param_groups[0]
        v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].double().numpy()
        v = v / (1 - group["betas"][1] ** float(state["step"]))
        found.append(rate / (np.sqrt(v) + group["eps"]))
    return found
