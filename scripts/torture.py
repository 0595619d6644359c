#!/usr/bin/env python3
"""The counts of `make torture`, from the ledger that its groups wrote: group, kills, other faults, seed.

Fails when too little was executed: a torture that tortures nothing proves nothing.
"""

import sys
from pathlib import Path

KILLS, FAULTS = 1000, 200


def main() -> None:
    rows = sorted(line.split("\t") for line in Path(sys.argv[1]).read_text().splitlines())
    kills, faults = sum(int(row[1]) for row in rows), sum(int(row[2]) for row in rows)
    width = max(len(row[0]) for row in rows)
    print(f"{'group':<{width}}  kills  other faults")
    for group, killed, other, _seed in rows:
        print(f"{group:<{width}}  {killed:>5}  {other:>12}")
    print(f"{'all':<{width}}  {kills:>5}  {faults:>12}")
    print("wrong verdicts: 0, or a test above has failed; seed " + ", ".join(sorted({row[3] for row in rows})))
    if kills < KILLS or faults < FAULTS:
        sys.exit(f"too few: {KILLS} kills and {FAULTS} other faults are what is promised")


if __name__ == "__main__":
    main()
