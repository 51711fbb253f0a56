"""Versions are Parquet files that other tools read."""

import json
import subprocess

import duckdb
import pyarrow.parquet
from conftest import PROGRAM, environment

CONTRACT = """format = 1
[schema]
required = ["text"]
[schema.properties]
text = { type = "string" }
n = { type = ["integer", "null"] }
score = { type = "number" }
flag = { type = "boolean" }
"""


def checked_out(home):
    (home / "contract.toml").write_text(CONTRACT)
    rows = [{"text": f"row {i}", "n": i if i % 3 else None, "score": i / 4, "flag": i % 2 == 0} for i in range(5000)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def lastmile(*args):
        return subprocess.run([PROGRAM, *args], env=environment(home), check=True, capture_output=True, text=True)

    lastmile("data", "ingest", "notes", home / "rows.jsonl", "--contract", home / "contract.toml")
    lastmile("data", "checkout", "notes", "-o", home / "out")
    return rows, home / "out"


def test_pyarrow_reads_a_version(tmp_path):
    rows, folder = checked_out(tmp_path)
    table = pyarrow.parquet.read_table(folder / "part-00000.parquet")
    assert [json.loads(text) for text in table["_json"].to_pylist()] == rows
    assert table.select(["text", "n", "score", "flag"]).to_pylist() == rows


def test_duckdb_reads_a_version(tmp_path):
    rows, folder = checked_out(tmp_path)
    query = f"select count(*), sum(n), max(score), count(*) filter (flag) from '{folder}/*.parquet'"
    n = [row["n"] for row in rows if row["n"] is not None]
    expect = (len(rows), sum(n), rows[-1]["score"], len(rows) // 2)
    assert duckdb.sql(query).fetchall() == [expect]
