"""Try every mutant, or those whose name holds a word: ``python -m tests.mutants [word ...]``."""

import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.listed import MUTANTS
from tests.mutants.trial import PASSED, copied_tree, run_tests, tried


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    with tempfile.TemporaryDirectory() as folder, copied_tree(Path(folder)) as tree:
        code, output = run_tests(tree, sorted({test for mutant in chosen for test in mutant.tests}))
        if code != PASSED:
            print(f"the tests fail without any mutant:\n{output}")
            return 1
        left = 0
        for mutant in chosen:
            begun = time.monotonic()
            status = tried(tree, mutant)
            left += status != "killed"
            print(f"{status.splitlines()[0]:<10} {time.monotonic() - begun:5.1f} s  {mutant.name}", flush=True)
            if status.startswith("error"):
                print(status, flush=True)
    print(f"{len(chosen) - left} of {len(chosen)} killed")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
