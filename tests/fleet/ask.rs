// SPDX-License-Identifier: Apache-2.0
//! Engines, with the SQL of sql/.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use serde::Deserialize;
use serde_json::Value;

pub const ENGINES: [&str; 3] = ["duckdb", "clickhouse", "spark"];

#[derive(Deserialize)]
pub struct Answer {
    /// Names and types.
    pub columns: Vec<[String; 2]>,
    pub rows: Vec<Vec<Value>>,
}

impl Answer {
    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|[name, _]| name.as_str()).collect()
    }
}

/// What an engine makes of the recordings in `dir`. Exports go to `place`.
pub fn ask(
    engine: &str,
    dir: &Path,
    place: &Path,
    exports: bool,
    queries: &[String],
) -> Vec<Answer> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("venv/bin/python");
    assert!(python.exists(), "make check installs the engines: no {}", python.display());
    // Without -B, files of root's would be where the user installed it.
    let mut command = Command::new(python);
    command.arg("-B").arg(root.join("tests/fleet/ask.py")).arg(engine).arg(dir).current_dir(place);
    command.arg(root.join(format!("sql/tcpconnect.{engine}.sql")));
    if exports {
        command.arg(root.join(format!("sql/ocsf.{engine}.sql")));
    }
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("Python runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all((queries.join("\n") + "\n").as_bytes()).expect("it listens");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{engine}: {stderr}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).expect("an answer")).collect()
}
