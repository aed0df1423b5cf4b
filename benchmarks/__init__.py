"""How fast the system trains, what limits it, and how that compares: every script here prints, draws and records.

from benchmarks.measuring.measure import alternate, drained, repeated
from benchmarks.reporting.results import Result

timed = alternate({"ours": repeated(step, images), "theirs": repeated(other, images)}, windows=7)
result = Result("networks", options)
for name, measurement in timed.items():
    result.add({"subject": name}, "images/s", measurement)
print(result.save())
"""
