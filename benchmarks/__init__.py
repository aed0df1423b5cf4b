"""How fast the system trains, what limits it, and how that compares: every script here prints, draws and records.

A benchmark is a page, a study: its options, its subjects, which take turns, and the rows that follow.

study = Study("name", __doc__, batch_size=8, windows=7)
study.option("--rounds", type=positive, default=2, help="of its own")


@study
def main(options: Any, result: Result) -> None:
    measured = alternate({"ours": repeated(step, 8), "theirs": repeated(other, 8)}, windows=options.windows)
    result.add_each({"batch": 8}, "of", "images/s", measured)
    result.add({"batch": 8}, "times as fast", measured["ours"].over(measured["theirs"]))


study.start()  # prints the table and writes the file

At the top stands what people start; `costs` and `studies` hold narrower questions, `measuring`, `peers` and `reporting` what
all of them are made of. docs/benchmarks.md has the questions and their commands.
"""
