"""The build hook: compile the kernels where there is a compiler. It never makes an installation fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags


class KernelHook(BuildHookInterface):
    """Adds the library to a wheel and names its platform; an editable installation finds it in the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            library = self._library()
        except Exception as error:
            self.app.display_warning(f"proxmom is built without its kernels: {error}")
            return
        if library is not None and version != "editable":
            for file in library:
                build_data["force_include"][str(file)] = str(file.relative_to(self.root))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"

    def _library(self) -> tuple[Path, Path] | None:
        """The library and its record."""
        folder = Path(self.root) / "proxmom" / "kernels"
        build = _by_path(folder / "build.py")
        if build.switched_off():
            return None
        library: Path | None = build.build(folder)
        if library is None:
            self.app.display_warning(f"proxmom is built without its kernels: {build.why_not()}")
            return None
        return library, folder / build.RECORD


def _by_path(path: Path) -> Any:
    """The module in a file: the package itself cannot be imported before its dependencies are there."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _platform() -> str:
    """This machine's platform tag; manylinux and musllinux promise a C library that nobody has checked."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
