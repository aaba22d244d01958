"""Writes training curves as TensorBoard event files, reproducible byte for byte."""

from pathlib import Path

import pandas as pd

from wscore.io import atomic_file

NAME = "runs/events.out.tfevents.0.wscore"


def write_events(history: Path, folder: Path) -> None:
    """Write `runs/events.out.tfevents...` into a folder from the CSV of a training, one step per epoch.

    TensorBoard's own writer would add time and host name; here the time of an event is its epoch, so publishing twice
    gives the same file.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.record_writer import RecordWriter

    table = pd.read_csv(history)
    steps = table["epoch"].astype(int) if "epoch" in table else pd.Series(range(len(table)))
    columns = [name for name in table if name != "epoch" and pd.api.types.is_numeric_dtype(table[name])]
    with atomic_file(folder / NAME) as temporary, temporary.open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for step, row in zip(steps, table.loc[:, columns].to_dict(orient="records"), strict=True):
            values = [
                Summary.Value(tag=str(name), simple_value=float(value))
                for name, value in row.items()
                if pd.notna(value)
            ]
            event = Event(wall_time=float(step), step=int(step), summary=Summary(value=values))
            writer.write(event.SerializeToString())
        writer.flush()
