"""Modules that are loaded with their first use."""

import subprocess
import sys

import pytest

USES = {
    "an attribute": "import colorsys; assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)",
    "a name": "from colorsys import rgb_to_hsv; assert rgb_to_hsv(0, 0, 0) == (0, 0, 0)",
    "all names": "from colorsys import *; assert rgb_to_hsv(0, 0, 0) == (0, 0, 0)",
    "a part of a package": "import wsgiref.util; assert wsgiref.util.FileWrapper",
}

WITHOUT_IT = "import colorsys, wsgiref; assert not loaded()"
UNKNOWN = "import colorsys\ntry: colorsys.no_such_name\nexcept AttributeError: pass\nelse: raise AssertionError"
LOADED_BEFORE = "import json; postpone('json'); import json as again; assert again is json"

BEGIN = """
import sys
from totalog.gateway.later import Later, postpone
postpone("colorsys", "wsgiref")
def loaded():
    return [name for name in ("colorsys", "wsgiref") if not isinstance(sys.modules[name], Later)]
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", BEGIN + code], check=True)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whoever_uses_a_module_loads_it(use: str) -> None:
    run(f"{use}\nassert len(loaded()) == 1\n{use}")


@pytest.mark.parametrize("code", [WITHOUT_IT, UNKNOWN, LOADED_BEFORE])
def test_a_module_that_is_not_used(code: str) -> None:
    run(code)
