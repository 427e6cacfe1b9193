"""Holds aggregates against an independent reference: windows by a walk over the clocks of the zone,
functions by DuckDB. Reads series and answers as JSON, prints every difference, exits with 1 if
there is one."""

import json
import sys
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import duckdb

SECOND = 10**9
STEP = 15 * 60
EPOCH = datetime(1970, 1, 1)
# In the order of the answer's values. Doubles keep the digits of a deviation only near 0.
FUNCTIONS = [
    "count(*)",
    "avg(number)",
    "sum(number * held) / (arg_min(until, t) - min(nt))",
    "min(number)",
    "max(number)",
    "sum(number)",
    "arg_min(raw, t)",
    "arg_max(raw, t)",
    "stddev_samp((number - base)::DOUBLE)",
    "sum(step)",
    "quantile_cont(number::DOUBLE, 0.05)",
    "quantile_cont(number::DOUBLE, 0.5)",
    "quantile_cont(number::DOUBLE, 0.95)",
]


def clock(zone, seconds):
    """Seconds that the clocks of a zone show, since their midnight of 1970-01-01."""
    shown = datetime.fromtimestamp(seconds, zone).replace(tzinfo=None)
    return round((shown - EPOCH).total_seconds())


def period_of(shown, period):
    """Number of the calendar period that a shown time lies in."""
    day = EPOCH + timedelta(seconds=shown)
    count, unit = int(period[1:-1]), period[-1]
    number = {
        "D": (day - EPOCH).days,
        "W": (day - datetime(1970, 1, 5)).days // 7,
        "M": (day.year - 1970) * 12 + day.month - 1,
        "Y": day.year - 1970,
    }[unit]
    return number // count


def windows(query):
    """Starts of windows around the range, found by walking through time."""
    zone = ZoneInfo(query["zone"])
    width, period = query["width"], query["period"]
    margin = {"Y": 370, "M": 33, "W": 9}.get(period[-1:], 5) * 86400
    at = (query["start"] // SECOND - margin) // STEP * STEP
    last = query["end"] // SECOND + margin
    starts, highest, turned = [], None, 0
    before = clock(zone, at - STEP)
    while at < last:
        shown = clock(zone, at)
        change = shown - before - STEP
        before = shown
        if width and change % width == 0:
            # The clocks change, the windows do not.
            turned += change
        number = period_of(shown, period) if period else (shown - turned) // width
        if highest is None or number > highest:
            highest = number
            starts.append(at * SECOND)
        at += STEP
    return starts


def load(database, metric, series):
    """Makes a table of a series."""
    kind = "HUGEINT" if all(kind == "i" for _, kind, _ in series if kind in "if") else "DOUBLE"
    rows = [
        f"({t}, '{json.dumps([kind, text])}', {repr(text) if kind in 'if' else 'NULL'})" for t, kind, text in series
    ]
    database.execute(f"CREATE TABLE sent_{metric} (t BIGINT, raw VARCHAR, number {kind})")
    database.execute(f"INSERT INTO sent_{metric} VALUES {', '.join(rows)}")


def expected(database, metric, query, starts):
    """Rows of window, numbers and values of each window that has values."""
    start, end, sent = query["start"], query["end"], f"sent_{metric}"
    pairs = ", ".join(f"({a}::BIGINT, {b}::BIGINT)" for a, b in zip(starts, starts[1:]))
    database.execute(f"CREATE OR REPLACE TABLE windows AS SELECT * FROM (VALUES {pairs}) w (start, stop)")
    return database.execute(
        f"""
        WITH steps AS (
            SELECT t, number - lag(number) OVER (ORDER BY t) AS change, number AS reached
            FROM {sent} WHERE number IS NOT NULL
        ), risen AS (
            SELECT t, CASE WHEN change < 0 THEN reached ELSE coalesce(change, 0) END AS step FROM steps
        ), placed AS (
            SELECT s.t, raw, number, step, start, least(stop, {end}) AS until,
                CASE WHEN number IS NOT NULL THEN s.t END AS nt
            FROM {sent} s ASOF JOIN windows ON s.t >= windows.start LEFT JOIN risen ON risen.t = s.t
            WHERE s.t >= {start} AND s.t < {end}
        ), weighed AS (
            SELECT *, min(number) OVER (PARTITION BY start) AS base, CASE WHEN number IS NOT NULL THEN coalesce(
                lead(nt) OVER (PARTITION BY start, number IS NULL ORDER BY t), until) - t END AS held
            FROM placed
        )
        SELECT start, count(number), {", ".join(FUNCTIONS)} FROM weighed GROUP BY start ORDER BY start
        """
    ).fetchall()


def equal(want, got):
    if want is None or got is None:
        return want is None and got is None
    kind, text = got
    if isinstance(want, str):
        other, shown = json.loads(want)
        return kind == other and (float(text) == float(shown) if kind == "f" else text == shown)
    if isinstance(want, int):
        return kind == "i" and int(text) == want
    return kind in "if" and abs(float(text) - want) <= 1e-9 * max(1.0, abs(want))


def main():
    data = json.load(sys.stdin)
    compared, wrong = 0, []
    database = duckdb.connect()
    for metric, series in data["series"].items():
        load(database, metric, series)
    for query in data["queries"]:
        starts = windows(query)
        starts = [s for s, end in zip(starts, starts[1:]) if end > query["start"] and s < query["end"]] + [
            next(s for s in starts if s >= query["end"])
        ]
        ends = dict(zip(starts, starts[1:]))
        for metric in data["series"]:
            found = {bucket["start"]: bucket for bucket in query["buckets"].get(metric, [])}
            wanted = expected(database, metric, query, starts)
            name = f"{metric} {query['zone']} {query['width'] or query['period']}"
            if list(found) != [row[0] for row in wanted]:
                wrong.append(f"{name}: windows {[row[0] for row in wanted]}, not {list(found)}")
                continue
            for start, numbers, *values in wanted:
                bucket = found[start]
                counts = (values[0], values[0] - numbers)
                if bucket["end"] != ends[start]:
                    wrong.append(f"{name} {start}: ends at {ends[start]}, not {bucket['end']}")
                if (bucket["count"], bucket["others"]) != counts:
                    wrong.append(f"{name} {start}: counts {counts}, not {bucket['count'], bucket['others']}")
                for function, want, got in zip(FUNCTIONS, values, bucket["values"], strict=True):
                    compared += 1
                    if not equal(want, got):
                        wrong.append(f"{name} {start}: {function} is {want}, not {got}")
    print(f"{compared} values compared, {len(wrong)} differences")
    print("\n".join(wrong[:40]))
    sys.exit(bool(wrong) or compared == 0)


main()
