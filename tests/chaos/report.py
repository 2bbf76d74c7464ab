"""What the rounds came to: one line for each kind of fault, as text, Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from checker import Promise
from rounds import Result


@dataclass(frozen=True)
class Row:
    """All rounds of one phase."""

    phase: str
    rounds: int
    modules: int  # that were without a writer, in all rounds
    median: float  # seconds: over these modules, of the longest outage of each round
    worst: float
    promised: str
    calls: int
    failed_calls: int
    broken: dict[str, int]

    @property
    def verdict(self) -> str:
        """In a few words."""
        if not self.broken:
            return "kept"
        return ", ".join(f"{count} x {rule}" for rule, count in self.broken.items())


def rows(results: Sequence[tuple[Result, Promise]]) -> list[Row]:
    """One row for each phase, in the order of their first round."""
    by_phase: dict[str, list[tuple[Result, Promise]]] = defaultdict(list)
    for result, promise in results:
        by_phase[result.phase].append((result, promise))
    return [_row(phase, found) for phase, found in by_phase.items()]


def _row(phase: str, found: Sequence[tuple[Result, Promise]]) -> Row:
    verdicts = [result.verdict for result, _ in found]
    outages = [seconds for verdict in verdicts for seconds in verdict.by_module.values()]
    broken: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for verdict in verdicts:
        broken += verdict.rules()
        outcomes += verdict.outcomes
    return Row(
        phase=phase,
        rounds=len(found),
        modules=len(outages),
        median=round(statistics.median(outages or (0.0,)), 2),
        worst=round(max(outages, default=0.0), 2),
        promised=_promised(found[0][1]),
        calls=outcomes.total(),
        failed_calls=outcomes.total() - outcomes["done"],
        broken=dict(broken.most_common()),
    )


def _promised(promise: Promise) -> str:
    words = []
    if promise.worst is not None:
        words.append(f"worst ≤ {promise.worst:g}")
    if promise.median is not None:
        words.append(f"median ≤ {promise.median:g}")
    if promise.calls_succeed:
        words.append("no failed call")
    return ", ".join(words) or "one writer"


def table(found: Sequence[Row]) -> str:
    """A Markdown table; times in seconds."""
    lines = [
        "| fault | rounds | outages | median | worst | promised | calls (failed) | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.phase} | {row.rounds} | {row.modules} | {row.median:.2f} | {row.worst:.2f} | "
        f"{row.promised} | {row.calls} ({row.failed_calls}) | {row.verdict} |"
        for row in found
    ]
    return "\n".join(lines)


def write(folder: Path, results: Sequence[tuple[Result, Promise]], title: str) -> str:
    """`results.md`, `results.json`, and every verdict in words in `verdicts.txt`. The table."""
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(results)
    text = f"{title}\n\n{table(found)}\n"
    (folder / "results.md").write_text(text)
    (folder / "results.json").write_text(json.dumps([asdict(row) for row in found], indent=1))
    words = (f"== {result.phase}\n{result.verdict.report(most=50)}\n" for result, _ in results)
    (folder / "verdicts.txt").write_text("\n".join(words))
    return text
