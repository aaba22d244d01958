"""Forecast the weights of a recorded training run, next to copying the last snapshot.

python examples/forecast.py    # in the root of the repository, after `make repro`
"""

from pathlib import Path

import torch

from wscore import PublishedPredictor
from wscore.forecasting.trajectories.store import open_trajectories

predictor = PublishedPredictor.from_pretrained("models/published")
config, stride = predictor.model.config, predictor.facts["training"]["stride"]
run = open_trajectories(Path("data/trajectories"))[-1]

now = len(run) // 2  # the predictor sees this snapshot and those before it, `stride` apart
history = torch.from_numpy(run.weights[now % stride : now + 1 : stride].copy())  # (snapshots, weights)
steps = [step for step in config.horizons if now + stride * step < len(run)]
for step, forecast in zip(steps, predictor.model.predict(history, run.layout, steps), strict=True):
    true = torch.from_numpy(run.weights[now + stride * step].copy())
    skill = 1 - float((forecast - true).square().sum() / (history[-1] - true).square().sum())
    print(f"{run.name}: {step} steps ahead, skill {skill:.3f}")
