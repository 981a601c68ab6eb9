"""Run one agent workload on two backends and read the table: quickstart.py [BACKEND...].

Without arguments: two simulated devices, so that it runs anywhere. With real ones:
    python examples/quickstart.py torch:cpu ort:cpu
"""

import sys
import tempfile

import chipmark

backends = sys.argv[1:] or ["sim:golden", "sim:slow"]
with tempfile.TemporaryDirectory() as folder:
    records = chipmark.run("quick", backends, out=folder)
    print(records.render("rich"))

    for row in records.table(baseline=backends[0]):
        place = row["rank"] or "-"
        rate, parity = row["total_tok_s"], row["parity"]
        print(f"{place} {row['backend']}: {rate:.1f} tok/s, parity {parity}")
        for column, reason in row["null_reasons"].items():
            print(f"  {column} is null: {reason}")
