// SPDX-License-Identifier: Apache-2.0
//! The SQL of sql/ in the engines themselves: all of them make the same of the recordings of
//! twenty hosts, to the last row, and the same as `--read`.
//!
//! Needs root, the engines where `make check` puts them, and a JVM.

#[path = "fleet/ask.rs"]
mod ask;
#[path = "fleet/generate.rs"]
mod generate;
#[path = "fleet/namespaces.rs"]
mod namespaces;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use ask::Answer;
use ask::ENGINES;
use ask::ask;
use generate::Shape;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

const FLEET: Shape = Shape { hosts: 20, hours: 3, connects: 40, has_logs: false };
const VIEWS: [&str; 5] = ["connections", "who", "pairs", "edges", "ecs"];
/// Of files that have nothing else in common.
const SIZES: [u32; 3] = [1, 32_768, 262_144];
/// Each line of a connection, also those that share a row.
const LINES: &str = "SELECT event, time, conn_id, pid, saddr, daddr, dport FROM recorded \
    WHERE event IN ('result', 'accept', 'close') UNION ALL \
    SELECT 'close', close_time, conn_id, pid, saddr, daddr, dport FROM recorded \
    WHERE close_time IS NOT NULL";
const COUNTS: &str = "SELECT saddr, daddr, dport, count(*) FROM connections \
    WHERE role = 'client' GROUP BY saddr, daddr, dport";

/// What one engine said.
struct Told {
    recorded: Answer,
    views: Vec<Answer>,
    lines: Answer,
    counts: Answer,
    sizes: Answer,
    export: Vec<String>,
}

struct Fleet {
    dir: TempDir,
    told: Vec<(&'static str, Told)>,
}

fn fleet() -> &'static Fleet {
    static FLEET_ONCE: OnceLock<Fleet> = OnceLock::new();
    FLEET_ONCE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let (hosts, sizes) = (dir.path().join("hosts"), dir.path().join("sizes"));
        generate::generate(&hosts, &FLEET);
        SIZES.iter().for_each(|&rows| sized(&sizes, rows));
        let told = thread::scope(|scope| {
            let asked = ENGINES.map(|engine| {
                let (hosts, sizes) = (&hosts, &sizes);
                (engine, scope.spawn(move || told(engine, hosts, sizes)))
            });
            asked.into_iter().map(|(engine, told)| (engine, told.join().expect(engine))).collect()
        });
        Fleet { dir, told }
    })
}

/// A file with so many rows, of which the first is the beginning.
fn sized(dir: &Path, rows: u32) {
    let boot_id = format!("{rows:08x}-0000");
    let mut log = generate::start("rows", &boot_id, 1, generate::BEGIN);
    for n in 1..rows {
        let time = generate::time(generate::BEGIN + u64::from(n));
        log += &format!(
            "{{\"event\":\"result\",\"time\":\"{time}\",\"ts_ns\":{n},\"pid\":{n},\"comm\":\"a\",\"ip\":4,\
             \"saddr\":\"10.0.0.1\",\"lport\":{},\"daddr\":\"10.0.{}.{}\",\"dport\":80,\"conn_id\":\"{n}\",\
             \"result\":\"ok\",\"latency_us\":1,\"began_ts_ns\":1}}\n",
            n % 65_536,
            n % 7,
            n % 200,
        );
    }
    generate::put(dir, "rows", &boot_id, u64::from(rows), generate::BEGIN, &log, false);
}

fn told(engine: &'static str, hosts: &Path, sizes: &Path) -> Told {
    let sizes = sizes.display();
    let files = match engine {
        "duckdb" => format!("read_parquet('{sizes}/*/*/*.parquet')"),
        "clickhouse" => format!("file('{sizes}/*/*/*.parquet', Parquet)"),
        _ => format!("parquet.`{sizes}`"),
    };
    let sizes = format!(
        "SELECT boot_id, event, count(*) AS n, sum(lport) AS lports, count(DISTINCT daddr) AS daddrs, \
         sum(pid) AS pids, min(time) AS first, max(time) AS last FROM {files} GROUP BY boot_id, event"
    );
    let mut queries =
        vec!["SELECT * FROM recorded LIMIT 0".to_owned(), LINES.to_owned(), COUNTS.to_owned()];
    queries.push(sizes);
    queries.extend(VIEWS.map(|view| format!("SELECT * FROM {view}")));
    let place = tempfile::tempdir().expect("a folder");
    let mut answers = ask(engine, hosts, place.path(), true, &queries).into_iter();
    let mut next = || answers.next().expect("an answer");
    let (recorded, lines, counts, sizes) = (next(), next(), next(), next());
    let views = VIEWS.iter().map(|_| next()).collect();
    Told { recorded, views, lines, counts, sizes, export: exported(place.path()) }
}

/// The objects of a file, or of all files of a folder, without what is null.
fn exported(place: &Path) -> Vec<String> {
    let path = place.join("network_activity.json");
    let files = match path.is_dir() {
        true => {
            fs::read_dir(&path).expect("a folder").map(|e| e.expect("an entry").path()).collect()
        }
        false => vec![path],
    };
    let is_data = |path: &&std::path::PathBuf| path.extension().is_some_and(|e| e == "json");
    let mut objects = Vec::new();
    for file in files.iter().filter(is_data) {
        let text = fs::read_to_string(file).expect("a file of text");
        objects.extend(text.lines().map(|line| {
            let value: Value = serde_json::from_str(line).expect("an object");
            sorted(value).to_string()
        }));
    }
    objects.sort();
    objects
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let fields: BTreeMap<_, _> = object.into_iter().filter(|(_, v)| !v.is_null()).collect();
            fields
                .into_iter()
                .map(|(name, value)| (name, sorted(value)))
                .filter(|(_, value)| *value != json!({}))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        other => other,
    }
}

/// The first engine, and each of the others.
fn each_beside_the_first() -> impl Iterator<Item = (&'static str, &'static Told, &'static Told)> {
    let [(_, first), others @ ..] = &fleet().told[..] else { panic!("there are engines") };
    others.iter().map(move |(engine, told)| (*engine, first, told))
}

fn assert_same_rows(engine: &str, what: &str, one: &Answer, other: &Answer) {
    assert!(!one.rows.is_empty(), "{what} is empty");
    assert_eq!(one.rows.len(), other.rows.len(), "{what} of {engine}");
    for (one, other) in one.rows.iter().zip(&other.rows) {
        assert_eq!(one, other, "{what} of {engine}");
    }
}

#[test]
fn each_view_has_the_same_rows_in_all_engines() {
    for (engine, one, other) in each_beside_the_first() {
        for (view, (one, other)) in VIEWS.iter().zip(one.views.iter().zip(&other.views)) {
            assert_eq!(one.names(), other.names(), "{view} of {engine}");
            assert_same_rows(engine, view, one, other);
        }
    }
}

#[test]
fn each_export_has_the_same_objects_in_all_engines() {
    for (engine, one, other) in each_beside_the_first() {
        assert_eq!(one.export.len(), one.views[0].rows.len());
        for (one, other) in one.export.iter().zip(&other.export) {
            assert_eq!(one, other, "{engine}");
        }
        assert_eq!(one.export.len(), other.export.len(), "{engine}");
    }
}

#[test]
fn all_connections_are_there_and_have_their_other_ends() {
    let told = &fleet().told[0].1;
    let [connections, _, pairs, edges, ecs] = &told.views[..] else { panic!("five views") };
    let servers = connections.rows.iter().filter(|row| row[4] == "server").count();
    let clients = connections.rows.iter().filter(|row| row[4] == "client").count();
    assert_eq!(clients as u32, FLEET.hosts * FLEET.hours * FLEET.connects);
    assert_eq!(pairs.rows.len(), servers);
    assert_eq!(ecs.rows.len(), connections.rows.len());
    let of_edges: u64 = edges.rows.iter().filter_map(|row| row[7].as_u64()).sum();
    assert_eq!(of_edges, servers as u64);
}

/// What `--read` prints of all hosts.
fn read(args: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpconnect"));
    let output =
        command.args(["-j", "--read"]).arg(fleet().dir.path().join("hosts")).args(args).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

/// Rows as the engines have them, sorted as ask.py sorts.
fn rows(objects: &[Value], fields: &[&str]) -> Vec<String> {
    let field = |object: &Value, name: &&str| match (*name, &object[*name]) {
        ("time", Value::String(time)) => time.replace('T', " ").replace('Z', "").into(),
        (_, value) => value.clone(),
    };
    let row = |object: &Value| json!(fields.iter().map(|f| field(object, f)).collect::<Vec<_>>());
    let mut rows: Vec<_> = objects.iter().map(|object| row(object).to_string()).collect();
    rows.sort();
    rows
}

fn texts(answer: &Answer) -> Vec<String> {
    let mut rows: Vec<_> = answer.rows.iter().map(|row| json!(row).to_string()).collect();
    rows.sort();
    rows
}

/// Rows of a query, as the texts of JSON, sorted.
fn asked(engine: &str, hosts: &Path, query: &str) -> Vec<String> {
    let place = tempfile::tempdir().expect("a folder");
    texts(&ask(engine, hosts, place.path(), false, &[query.to_owned()])[0])
}

#[test]
fn who_talks_to_whom_is_the_same_in_all_engines_and_as_it_happened() {
    let dir = tempfile::tempdir().expect("a folder");
    let (hosts, programs) = (dir.path().join("hosts"), dir.path().join("programs"));
    let edges = namespaces::generate(&hosts, &programs);
    let server = std::env::current_exe().expect("Linux");
    let row = |(host, other, address, count): &(u8, u8, IpAddr, u64)| {
        let names = [*host, *other].map(namespaces::name_of);
        let program = namespaces::program_of(&programs, *host);
        let address = SocketAddr::new(*address, namespaces::PORT).to_string();
        json!([names[0], program, names[1], server, address, count]).to_string()
    };
    let mut expected: Vec<_> = edges.iter().map(row).collect();
    expected.sort();
    let made: u64 = edges.iter().map(|(.., count)| count).sum();
    let refused = u64::from(namespaces::HOSTS);
    let mut ends = vec![
        json!(["client", "refused", refused]).to_string(),
        json!(["client", "ok", made]).to_string(),
        json!(["server", "ok", made]).to_string(),
    ];
    ends.sort();
    for engine in ENGINES {
        let edges = "SELECT client_host, client_exe, server_host, server_exe, address, connections \
            FROM edges";
        assert_eq!(asked(engine, &hosts, edges), expected, "{engine}");
        let roles = "SELECT role, outcome, count(*) AS n FROM connections GROUP BY role, outcome";
        assert_eq!(asked(engine, &hosts, roles), ends, "{engine}");
    }
}

#[test]
fn engines_list_and_count_what_read_does() {
    let mut lines = read(&["-r", "--life", "--accept"]);
    lines.retain(|line| line["conn_id"].is_string());
    let lines = rows(&lines, &["event", "time", "conn_id", "pid", "saddr", "daddr", "dport"]);
    let mut counts = read(&["-c"]);
    counts.retain(|line| line["event"] == "count");
    let counts = rows(&counts, &["saddr", "daddr", "dport", "connects"]);
    assert!(lines.len() > 1000 && counts.len() > 1000);
    for (engine, told) in &fleet().told {
        assert_eq!(texts(&told.lines), lines, "{engine}");
        assert_eq!(texts(&told.counts), counts, "{engine}");
    }
}

#[test]
fn files_of_any_size_are_read() {
    let first = &fleet().told[0].1.sizes;
    let total: u64 = first.rows.iter().filter_map(|row| row[2].as_u64()).sum();
    assert_eq!(total, SIZES.iter().map(|&rows| u64::from(rows)).sum::<u64>());
    for (engine, one, other) in each_beside_the_first() {
        assert_same_rows(engine, "sizes", &one.sizes, &other.sizes);
    }
}

/// The cells of each row of the table that begins with this line.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = page.lines().skip_while(|line| *line != heading).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let cells = line.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>()
    };
    let rows: Vec<_> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "{heading}");
    rows
}

#[test]
fn columns_have_the_types_of_the_document_in_each_engine() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recording.md");
    let page = fs::read_to_string(page).expect("docs/recording.md");
    let types = table(&page, "| type | in Parquet | DuckDB | ClickHouse | Spark |");
    let columns = table(&page, "| column | type | what | null means |");
    for (at, (engine, told)) in fleet().told.iter().enumerate() {
        let plain = |of: &str| {
            let of = of.strip_prefix("Nullable(").and_then(|of| of.strip_suffix(')')).unwrap_or(of);
            of.to_owned()
        };
        let mut found = told.recorded.columns.clone();
        found.retain(|[name, _]| name != "host" && name != "date");
        let found: Vec<_> = found.iter().map(|[name, of]| (name.clone(), plain(of))).collect();
        let type_of = |of: &str| types.iter().find(|row| row[0] == of).expect(of)[2 + at].clone();
        let expected: Vec<_> =
            columns.iter().map(|row| (row[0].clone(), type_of(&row[1]))).collect();
        assert_eq!(found, expected, "{engine}");
    }
}

#[test]
fn duckdb_reads_logs_beside_what_is_sealed_and_neither_torn_lines_nor_any_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    generate::generate(dir.path(), &Shape { has_logs: true, ..FLEET });
    let mut logs = 0;
    for host in fs::read_dir(dir.path()).expect("a folder") {
        let folder = host.expect("a host").path().join("date=2026-11-23");
        for file in fs::read_dir(&folder).expect("a folder") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|ending| ending == "jsonl") {
                let mut text = fs::read_to_string(&path).expect("a log");
                text += r#"{"event":"result","time":"2026-11-23T0"#;
                fs::write(&path, text).expect("a log");
                logs += 1;
            } else {
                // As after a crash before the log went.
                fs::write(path.with_extension("jsonl"), "{\"event\":\"result\"}\n").expect("a log");
            }
        }
    }
    assert_eq!(logs, FLEET.hosts);
    let queries = VIEWS.map(|view| format!("SELECT * FROM {view}"));
    let place = tempfile::tempdir().expect("a folder");
    let answers = ask("duckdb", dir.path(), place.path(), false, &queries);
    for (view, (one, other)) in VIEWS.iter().zip(fleet().told[0].1.views.iter().zip(&answers)) {
        assert_same_rows("duckdb with logs", view, one, other);
    }
}

#[test]
fn each_engine_has_the_same_files() {
    let folder = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")).expect("sql");
    let mut names: Vec<_> = folder
        .map(|entry| entry.expect("a file").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    let mut expected: Vec<_> = ["ocsf", "tcpconnect"]
        .iter()
        .flat_map(|what| ENGINES.map(|engine| format!("{what}.{engine}.sql")))
        .collect();
    expected.sort();
    assert_eq!(names, expected);
}
