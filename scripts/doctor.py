"""``sparseconv doctor``: what works on this machine, what is missing, and the remedy."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sparseconv.scripts.checkup import Finding, as_json, engine_works, findings
from sparseconv.scripts.console import out

_MARKS = {"ok": "[green]ok[/]", "absent": "[dim]absent[/]", "problem": "[bold red]problem[/]"}


def _table(found: list[Finding]) -> Table:
    table = Table(title="sparseconv on this machine", title_justify="left", expand=True)
    table.add_column("", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=3)
    table.add_column("remedy", overflow="fold", ratio=2)
    topic = found[0].topic
    for line in found:
        if line.topic != topic:
            table.add_section()
            topic = line.topic
        table.add_row(line.name, _MARKS[line.state], escape(line.detail), escape(line.remedy))
    return table


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs and bug reports.")] = False,
) -> None:
    """Say what works on this machine, what is missing, and what to do about it. Exit code 1: the engine itself."""
    found = list(findings())
    works = engine_works(found)
    if json:
        sys.stdout.write(as_json(found) + "\n")
    else:
        out.print(_table(found), highlight=False)
        problems = [line.name for line in found if line.state == "problem"]
        if not works:
            out.print("[bold red]The engine cannot run here.[/]")
        elif problems:
            out.print(f"The engine works. Problems: {', '.join(problems)}.", highlight=False)
        else:
            out.print("The engine works; what is absent is optional.", highlight=False)
    if not works:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(doctor)
