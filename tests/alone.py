"""Run by `test_extras_alone.py`: does what every extra promises where the core and one extra are to be had.

A process imports the core alone, then forks a child for each extra. What a child must not have is not found by its
imports, as if it were not installed. Extras that bring torch are forked by a child that has imported that, and nothing
else that is optional, as it takes seconds. Prints what each child was told: by extra, by promise.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
import textwrap
import traceback
from importlib.machinery import PathFinder

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(name):
    """Distributions that a requirement such as ``tilewright[mpi]`` brings, canonical names."""
    found, waiting = set(), [Requirement(name)]
    while waiting:
        requirement = waiting.pop()
        one = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if one not in found:
            found.add(one)
            for line in map(Requirement, importlib.metadata.requires(one[0]) or ()):
                if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in ("", *one[1])):
                    waiting.append(line)
    return {name for name, _ in found}


def in_a_child(function, *arguments):
    """What a function returns in a fork of this process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writer, "w") as file:
            json.dump(function(*arguments), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.wait()
    return json.loads(text)


class Finder:
    """The finder of installed modules, but for those that are hidden."""

    hidden = frozenset()

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.hidden else PathFinder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(PathFinder, name)


def main():
    promises = json.loads(sys.argv[1])
    brought = {extra: closure(f"tilewright[{extra}]") for extra in promises}
    core, optional = closure("tilewright"), set().union(*brought.values())
    owners = {
        module: {canonicalize_name(name) for name in names}
        for module, names in importlib.metadata.packages_distributions().items()
    }

    def hidden(has):
        return frozenset(module for module, names in owners.items() if names <= optional and not names & has)

    finder = Finder()
    sys.meta_path[sys.meta_path.index(PathFinder)] = finder
    finder.hidden = hidden(core)

    import numpy as np

    import tilewright as tw
    from tilewright.extras import command

    A = 4 * np.eye(8) + 1
    L, run = tw.tiled_cholesky(A, tile_size=2, workers=1, backend="serial", return_run=True)
    names = {"np": np, "tw": tw, "A": A, "L": L, "run": run, "b": np.arange(8.0)}

    def told(code):
        try:
            exec(textwrap.dedent(code), dict(names))
        except (ImportError, OSError) as error:
            return str(error)
        except BaseException:
            return traceback.format_exc()
        return "works"

    found = {"keeps": {extra: [p for p in promises if brought[p] <= brought[extra] | core] for extra in promises}}
    found["commands"] = {extra: command(extra) for extra in promises}

    def kept(extra):
        """Of the promises, which this extra keeps, and what is said of the others."""
        finder.hidden = hidden(brought[extra])
        os.chdir(tempfile.mkdtemp(dir="."))
        return {promise: told(code) for promise, code in promises.items()}

    def with_torch():
        finder.hidden = hidden(brought["torch"])
        import torch  # noqa: F401 - so that the children have it

        return {extra: in_a_child(kept, extra) for extra in heavy}

    heavy = [extra for extra in promises if "torch" in brought[extra]]
    found |= in_a_child(with_torch)
    found |= {extra: in_a_child(kept, extra) for extra in promises if extra not in heavy}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
