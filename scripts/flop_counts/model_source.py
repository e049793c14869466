"""A model named on the command line: one of the registry, a class of a package, a function in a file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sparseconv import models
from sparseconv.compat import install_spconv
from sparseconv.compat.spconv.pytorch.core import SparseConvTensor
from sparseconv.scripts.network import wants_bounded_grid
from sparseconv.tensor import SparseTensor

_FORMS = "a model's class name, package.module:Class, package.module.Class or path/to/file.py:function"
# What programs call the number of columns of their input.
_CHANNEL_NAMES = ("in_channels", "input_channels", "in_ch", "num_input_features", "c_in", "channels")


@dataclass(frozen=True)
class ModelSource:
    """A model that can be built for any number of input channels.

    Attributes:
        name: as it was given.
        make: a class, a function, or a ready module.
        bounded: whether it wants a grid with ends.
    """

    name: str
    make: Any
    bounded: bool

    def build(self, in_channels: int) -> nn.Module:
        """The model with weights of seed 0, in evaluation mode.

        Raises:
            ValueError: it cannot be built from a number of input channels, or is no module.
        """
        if isinstance(self.make, nn.Module):
            return self.make.eval()
        state = torch.random.get_rng_state()
        torch.manual_seed(0)
        try:
            model = _call(self.make, in_channels)
        except Exception as error:
            raise ValueError(f"{self.name}: building the model failed: {_one_line(error)}") from None
        finally:
            torch.random.set_rng_state(state)
        if not isinstance(model, nn.Module):
            raise ValueError(f"{self.name} must give a torch.nn.Module, and gives {type(model).__name__}")
        return model.eval()


def find_model(name: str) -> ModelSource:
    """The model that a command line names.

    Raises:
        ValueError: there is none, or importing it failed.
    """
    found = models.MODELS.get(name) or (getattr(models, name, None) if name.isidentifier() else None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return _source(name, found)
    head, colon, attribute = name.rpartition(":")
    if not colon and name.endswith(".py"):
        raise ValueError(f"{name}: say what makes the model in this file, as {name}:make_model")
    if not colon:
        head, _, attribute = name.rpartition(".")
    if not head or not attribute:
        raise ValueError(f"no model {name!r}; the models are {', '.join(models.MODELS)}. Name {_FORMS}")
    make: Any = _import(name, head)
    for part in attribute.split("."):
        if not hasattr(make, part):
            raise ValueError(f"{name}: {head} has no {part}; it has {_public(make)}")
        make = getattr(make, part)
    if not callable(make):
        raise ValueError(f"{name} is a {type(make).__name__}, no class, function or module that makes a model")
    return _source(name, make)


def _source(name: str, make: Any) -> ModelSource:
    registered = next((known for known, model in models.MODELS.items() if model is make), None)
    return ModelSource(name, make, registered is None or wants_bounded_grid(registered))


def give(model: nn.Module, input: SparseTensor) -> SparseTensor | SparseConvTensor:
    """The input in the class that the model's layers take: spconv's for a program written for spconv."""
    if any(type(module).__module__.startswith("sparseconv.compat.spconv") for module in model.modules()):
        return SparseConvTensor.from_sparse_tensor(input)
    return input


def _public(module: Any) -> str:
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    return ", ".join(names[:12]) or "nothing that makes a model"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _import(name: str, head: str) -> ModuleType:
    try:
        # A program written for spconv finds this engine.
        if "spconv" not in sys.modules:
            install_spconv()
        if head.endswith(".py"):
            return _import_file(Path(head))
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        return importlib.import_module(head)
    except ModuleNotFoundError as error:
        if error.name is not None and (head == error.name or head.startswith(error.name + ".")):
            raise ValueError(
                f"no model {name!r}: there is no module {error.name}; the models are {', '.join(models.MODELS)}. "
                f"Name {_FORMS}"
            ) from None
        raise ValueError(f"{name}: importing {head} failed: {_one_line(error)}") from None
    except FileNotFoundError:
        raise ValueError(f"{head}: no such file") from None
    except Exception as error:
        raise ValueError(f"{name}: importing {head} failed: {_one_line(error)}") from None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # A name of its own: a file called `flops.py` or `torch.py` must not take another module's place.
    name = f"_sparseconv_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _call(make: Callable[..., Any], in_channels: int) -> Any:
    """Call with the input channels by name, else as the one required argument, else with nothing."""
    parameters = inspect.signature(make).parameters
    for name in _CHANNEL_NAMES:
        if name in parameters and parameters[name].kind != inspect.Parameter.POSITIONAL_ONLY:
            return make(**{name: in_channels})
    required = [
        parameter
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return make(in_channels) if required else make()
