# SPDX-License-Identifier: Apache-2.0
"""What an engine makes of recordings, for tests/fleet.rs and tests/join.rs.

  ask.py ENGINE FOLDER FILE...

The SQL of the files is run with FOLDER instead of /var/lib/tcpconnect. Then each line of
standard input is a query, and the answer to it a line: its columns with their types, and its
rows, sorted. What is null is left out of structs, times are UTC.
"""

import datetime
import json
import os
import sys


def plain(value):
    if isinstance(value, datetime.datetime):
        if value.tzinfo:
            value = value.astimezone(datetime.timezone.utc)
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    if isinstance(value, datetime.date):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def statements(sql):
    return [part for part in sql.split(";\n") if part.strip()]


class DuckDb:
    def __init__(self):
        import duckdb

        self.connection = duckdb.connect()

    def run(self, sql):
        self.connection.execute(sql)

    def ask(self, sql):
        answer = self.connection.execute(sql)
        columns = [[column[0], str(column[1])] for column in answer.description]
        return columns, [list(row) for row in answer.fetchall()]


class ClickHouse:
    def __init__(self):
        from chdb import session

        self.session = session.Session()

    def run(self, sql):
        self.session.query(sql)

    def ask(self, sql):
        sql += " SETTINGS output_format_json_quote_64bit_integers = 0"
        text = str(self.session.query(sql, "JSONCompactEachRowWithNamesAndTypes"))
        names, types, *rows = [json.loads(line) for line in text.splitlines()]
        return [list(pair) for pair in zip(names, types)], rows


class Spark:
    def __init__(self):
        os.environ["TZ"] = "UTC"
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master("local[2]")
        for key, value in {
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "2",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.catalogImplementation": "in-memory",
            # There are few rows: to compile a plan takes longer than to interpret it.
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            "spark.sql.adaptive.enabled": "false",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        }.items():
            builder = builder.config(key, value)
        self.session = builder.getOrCreate()
        self.session.sparkContext.setLogLevel("ERROR")

    def run(self, sql):
        for statement in statements(sql):
            self.session.sql(statement)
            if " VIEW connections " in statement:
                self.session.sql("CACHE LAZY TABLE connections")

    def ask(self, sql):
        answer = self.session.sql(sql)
        columns = [list(pair) for pair in answer.dtypes]
        rows = answer.collect()
        return columns, [list(row.asDict(recursive=True).values()) for row in rows]


def main():
    engine, folder, *files = sys.argv[1:]
    engine = {"duckdb": DuckDb, "clickhouse": ClickHouse, "spark": Spark}[engine]()
    for file in files:
        with open(file) as sql:
            engine.run(sql.read().replace("/var/lib/tcpconnect", folder))
    for query in sys.stdin:
        columns, rows = engine.ask(query)
        rows = [[plain(value) for value in row] for row in rows]
        rows.sort(key=json.dumps)
        print(json.dumps({"columns": columns, "rows": rows}), flush=True)


main()
