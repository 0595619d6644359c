#!/usr/bin/env python3
"""The counts of `make torture`, from the ledger that its groups wrote: group, kills, other faults, seed.

Fails when too little was executed: a torture that tortures nothing proves nothing.
"""

import sys
from pathlib import Path

KILLS, DAMAGE = 1000, 200


def main() -> None:
    ledger = Path(sys.argv[1])
    rows = sorted(line.split("\t") for line in ledger.read_text().splitlines()) if ledger.exists() else []
    width = max([len(row[0]) for row in rows] + [10])
    print(f"{'group':<{width}}  kills  other faults")
    for group, kills, faults, _seed in rows:
        print(f"{group:<{width}}  {kills:>5}  {faults:>12}")
    kills, faults = (sum(int(row[column]) for row in rows) for column in (1, 2))
    damage = sum(int(row[2]) for row in rows if row[0].startswith("damage"))
    print(f"{'all':<{width}}  {kills:>5}  {faults:>12}, {damage} of them damage")
    print("wrong verdicts: none, unless a test failed above; seed " + ", ".join(sorted({row[3] for row in rows})))
    if kills < KILLS or damage < DAMAGE:
        sys.exit(f"too few: {KILLS} kills and {DAMAGE} cases of damage are promised")


if __name__ == "__main__":
    main()
