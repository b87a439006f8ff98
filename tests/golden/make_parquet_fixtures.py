"""Small Parquet files, one a codec, and the rows that are in them as JSON Lines.

    python tests/golden/make_parquet_fixtures.py      (needs pyarrow)
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path(__file__).parent / "parquet"
CALL = pa.struct([("name", pa.string()), ("arguments", pa.string())])
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(CALL))])
SCHEMA = pa.schema([("messages", pa.list_(MESSAGE)), ("source", pa.dictionary(pa.int32(), pa.string())),
                    ("score", pa.float64()), ("id", pa.int64()), ("tags", pa.large_list(pa.large_string())),
                    ("day", pa.date32())])  # fmt: skip


def row(i):
    question = {"role": "user", "content": f"What is {i}?\n\"Quoted\" — ünï {chr(0x1F33A)}"}
    answer = {"role": "assistant", "content": f"It is {i}."}
    if i % 7 == 0:
        answer["tool_calls"] = [{"name": "count", "arguments": json.dumps({"to": i})}]
    tags = None if i % 5 == 0 else [f"t{k}" for k in range(i % 3)]
    return {"messages": [question, answer], "source": ["web", "book", None][i % 3], "score": i / 8 if i % 4 else None,
            "id": 2**53 + i, "tags": tags, "day": None}  # fmt: skip


def main():
    OUT.mkdir(exist_ok=True)
    rows = [row(i) for i in range(50)]
    (OUT / "rows.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    for codec in ("snappy", "gzip", "zstd", "none", "lz4"):
        pq.write_table(table, OUT / f"{codec}.parquet", compression=codec, row_group_size=20)
    pq.write_table(table, OUT / "pages_v2.parquet", compression="zstd", data_page_version="2.0", version="2.6",
                   data_page_size=256, use_dictionary=False)  # fmt: skip
    pq.write_table(table.slice(0, 0), OUT / "empty.parquet")


main()
