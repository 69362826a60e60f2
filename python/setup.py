"""Builds the jetbatch binary into the wheel: with Go, from the clone that this folder is part of."""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

HERE = Path(__file__).resolve().parent


class Build(build_py):
    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            target = HERE / "jetbatch" / "bin" / "jetbatch"
        else:
            target = Path(self.build_lib).resolve() / "jetbatch" / "bin" / "jetbatch"
        target.parent.mkdir(parents=True, exist_ok=True)
        ready = os.environ.get("JETBATCH_BINARY")  # such as one that was built for another machine
        if ready:
            shutil.copy(ready, target)
            return
        if shutil.which("go") is None:
            raise SystemExit(
                "jetbatch: building needs Go on PATH, or JETBATCH_BINARY with a binary of the same version"
            )
        subprocess.run(
            ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(target), "./cmd/jetbatch"],
            cwd=HERE.parent,
            env={**os.environ, "CGO_ENABLED": "0"},
            check=True,
        )


class Binary(Distribution):
    def has_ext_modules(self) -> bool:
        """The wheel is for one platform, since there is a binary in it."""
        return True


try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    from wheel.bdist_wheel import bdist_wheel


class Wheel(bdist_wheel):
    def get_tag(self):
        """It runs with any Python 3: the binary is a program, and static."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": Build, "bdist_wheel": Wheel}, distclass=Binary)
