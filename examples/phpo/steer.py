"""Propose points: at random at first, then around the best one.

It is called anew each time, with all points so far, and keeps nothing.
"""

import argparse
import json
import math
import random
from pathlib import Path


def number(rng, dimension, near=None):
    """Draw a value of one dimension, maybe near another one."""
    method, fields = dimension["method"], dimension["dimension"]
    if method == "categorical":
        return rng.choice(fields["categories"])
    low, high = fields["low"], fields["high"]
    if method == "loguniform":
        low, high = math.log(low), math.log(high)
        near = None if near is None else math.log(near)
    value = rng.uniform(low, high) if near is None else rng.gauss(near, 0.1 * (high - low))
    value = min(max(value, low), high)
    if method == "loguniform":
        return math.exp(value)
    return round(value) if method == "uniformint" else value


def propose(space, points, n, seed):
    """Give n points of one model."""
    rng = random.Random(seed)
    done = [(loss, point) for point, loss in points if loss is not None]
    best = min(done, key=lambda each: each[0])[1] if done else {}
    return [
        {name: number(rng, each, best.get(name)) for name, each in space.items()} for _ in range(n)
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_point", type=int)
    parser.add_argument("--max_point", type=int)
    parser.add_argument("--infile")
    parser.add_argument("--outfile")
    options = parser.parse_args()
    given = json.loads(Path(options.infile).read_text())
    space, points = given["opt_space"], given["points"]
    new = []
    if isinstance(space, list):
        for each in space:
            model = each["model_id"]
            mine = [(point, loss) for (owner, point), loss in points if owner == model]
            seed = f"{model}/{len(mine)}"
            new += [
                [model, point]
                for point in propose(each["search_space"], mine, options.n_point, seed)
            ]
    else:
        new = propose(space, points, options.n_point, len(points))
    Path(options.outfile).write_text(json.dumps(new[: options.max_point - len(points)]))


if __name__ == "__main__":
    main()
