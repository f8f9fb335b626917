// SPDX-License-Identifier: Apache-2.0
//! What a recording says of itself, between its rows: when somebody looked, and with what options.

use serde::Deserialize;
use serde::Serialize;

use super::Time;
use crate::output::line::put;

/// At the beginning of each file.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    pub version: &'static str,
    pub host: String,
    pub boot_id: String,
    /// The same in all files of one run, and in no others.
    pub run: String,
    /// Of the file, one more than that of the one before.
    pub sequence: u64,
    /// As they were typed, but for COMMAND.
    pub options: Vec<String>,
    /// What is kept of arguments.
    pub record_args: &'static str,
}

/// As it is read.
#[derive(Debug)]
pub enum Mark {
    /// A file of this run begins.
    Start { run: String, sequence: u64, options: Vec<String> },
    /// Nobody looks from here on.
    Stop,
    /// Somebody looks.
    Alive,
}

#[derive(Serialize)]
struct Object<'a> {
    event: &'static str,
    time: Time,
    #[serde(flatten)]
    start: Option<&'a Start>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<u64>,
}

fn mark(event: &'static str, unix_ns: u64) -> Object<'static> {
    Object { event, time: Time(unix_ns), start: None, count: None, output: None }
}

/// A file begins.
pub fn start(unix_ns: u64, start: &Start, out: &mut Vec<u8>) {
    put(out, &Object { start: Some(start), ..mark("start", unix_ns) });
}

/// The host whose file begins with this line.
pub fn host(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        event: String,
        host: String,
    }
    let head: Head = serde_json::from_slice(line).ok()?;
    (head.event == "start").then_some(head.host)
}

/// Nobody looks from here on.
pub fn stop(unix_ns: u64, out: &mut Vec<u8>) {
    put(out, &mark("stop", unix_ns));
}

/// Somebody looks, and all before is written.
pub fn alive(unix_ns: u64, out: &mut Vec<u8>) {
    put(out, &mark("alive", unix_ns));
}

/// Whether this is no more than such a line.
pub fn is_alive(lines: &[u8]) -> bool {
    let is_one = lines.iter().position(|&b| b == b'\n').is_some_and(|at| at + 1 == lines.len());
    is_one && lines.starts_with(br#"{"event":"alive","#)
}

/// Lines that there was no room for.
pub fn lost(unix_ns: u64, count: u64, out: &mut Vec<u8>) {
    put(out, &Object { count: Some(count), output: Some(count), ..mark("lost", unix_ns) });
}
