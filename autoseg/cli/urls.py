"""Lets commands take URLs in place of paths: they get a local path that stands for the URL."""

import sys
from collections.abc import Callable, Mapping
from typing import Final

from autoseg.remote import arguments

USES: Final[Mapping[str, Mapping[str, arguments.Use]]] = {
    "convert": {"source": "read", "out": "write"},
    "init": {"folder": "write"},
    "check": {"dataset": "read", "splits": "read"},
    "plan": {"dataset": "read", "run": "write", "splits": "read", "pretrained": "read"},
    "preprocess": {"run": "write"},
    "synthesize": {"run": "write", "out": "write"},
    "train": {"run": "write", "init": "read", "teacher": "read"},
    "status": {"run": "watch"},
    "select": {"run": "write"},
    "predict": {"run": "read", "images": "read", "out": "write", "terms": "read"},
    "evaluate": {"predictions": "write", "references": "read", "run": "read", "instances": "read"},
    "refine": {"run": "read", "image": "read", "label_map": "read", "clicks": "read", "out": "write file"},
    "view": {"image": "read", "label_maps": "read", "out": "write file"},
    "doctor": {"folder": "read"},
    "report": {"run": "write", "predictions": "read", "out": "write file"},
    "export": {"run": "read", "output": "write as named"},
    "import_model": {"source": "read", "run": "write"},
}
"""Use of the arguments that may be URLs, by command."""


def accept_urls(command: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command so that its paths may be URLs."""
    name = command.__name__
    return arguments.accept_urls(f"autoseg {name}", USES.get(name, {}))(command)


def name_urls(text: str) -> str:
    """Writes URLs in place of the local paths that stand for them, if there are any."""
    mirror = sys.modules.get("autoseg.remote.mirror")  # loaded when a command is given a URL
    return text if mirror is None else str(mirror.name_urls(text))
