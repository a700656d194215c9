"""Calibrate a calorimeter: the response as a polynomial of the logarithm of the energy.

It knows nothing of who runs it: it reads the files that the service of PanDA writes, and writes
those that it reads.
"""

import csv
import json
import math
import sys
from pathlib import Path

CHECKPOINT = Path("checkpoint.json")
METRICS = Path("metrics/loss.csv")


def events(names):
    """Give (x, response) of all events: x is the logarithm of the energy, from -1 to 1."""
    for name in names:
        with Path(name).open() as file:
            for row in csv.DictReader(file):
                x = math.log10(float(row["energy"]) / 50.0)
                yield x, float(row["response"])


def residuals(weights, data):
    return [(x, sum(w * x**i for i, w in enumerate(weights)) - y) for x, y in data]


def step(weights, data, learning_rate):
    """Give the weights after one step downhill."""
    wrong = residuals(weights, data)
    return [
        w - learning_rate * 2.0 * sum(r * x**i for x, r in wrong) / len(data)
        for i, w in enumerate(weights)
    ]


def main(params_file, data_file, output_file):
    params = json.loads(Path(params_file).read_text())
    data = list(events(json.loads(Path(data_file).read_text())))
    train, held_out = data[::2], data[1::2]
    weights, first = [0.0] * (params["degree"] + 1), 0
    if CHECKPOINT.exists():
        weights, first = json.loads(CHECKPOINT.read_text())
    METRICS.parent.mkdir(exist_ok=True)
    with METRICS.open("a") as metrics:
        for epoch in range(first, params["epochs"]):
            weights = step(weights, train, params["learning_rate"])
            loss = sum(r**2 for _, r in residuals(weights, held_out)) / len(held_out)
            metrics.write(f"{epoch},{loss}\n")
            unfinished = CHECKPOINT.with_suffix(".unfinished")
            unfinished.write_text(json.dumps([weights, epoch + 1]))
            unfinished.replace(CHECKPOINT)
    loss = sum(r**2 for _, r in residuals(weights, held_out)) / len(held_out)
    Path("meta.json").write_text(json.dumps({"weights": weights, "events": len(data)}))
    Path(output_file).write_text(json.dumps({"status": 0, "loss": loss, "message": "done"}))


if __name__ == "__main__":
    main(*sys.argv[1:])
