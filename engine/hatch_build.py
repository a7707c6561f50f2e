"""The build backend's hook: compiles the C parts, for a wheel or, in an editable install, beside the sources."""

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface[Any]):
    """Named by hatchling's convention for hooks in a file of one's own."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        core_build = load_core_build(Path(self.root))
        try:
            if version == "editable":
                core_build.build_in_place()
                return
            target = Path(self.root, "build/wheel")
            libraries = core_build.Build(target, Path(self.root, "build/wheel-core"), warnings_are_errors=False).run()
        except core_build.BuildError as failure:
            sys.exit(str(failure))
        for library in libraries:
            build_data["force_include"][str(target / library)] = f"totalog/{library}"
        build_data["pure_python"] = False
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            build_data["infer_tag"] = True
        else:
            build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def load_core_build(root: Path) -> ModuleType:
    """The build runs before anything is installed, so the file is loaded by its path."""
    spec = importlib.util.spec_from_file_location("totalog_core_build", root / "engine/core_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
