// SPDX-License-Identifier: Apache-2.0
//! What a tracer printed, sorted by whose it may be.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;

use super::holds::Losses;
use super::holds::OF_ATTACKS;
use super::lab::Done;
use super::options::Options;
use super::table::Table;

/// What a tracer printed.
pub struct Printed {
    pub complaints: Vec<String>,
    /// Of each network namespace.
    pub rows: BTreeMap<u64, Vec<Value>>,
    /// Of network namespaces that were deleted, each with who was there.
    pub visits: BTreeMap<(u32, u32), Vec<Value>>,
    pub lost: Vec<Value>,
    /// Of processes.
    pub lives: Vec<Value>,
    /// Under attack: what was told to be lost.
    pub losses: Losses,
    /// So often the kernel did not run a program that it should have: it interrupted that
    /// very program. The tracer can but count it.
    pub skipped: u64,
    /// There was no room for some.
    pub names_lost: bool,
}

impl Printed {
    /// What is lost may be another's, unless the scenarios are alone.
    pub fn new(done: &Done, options: &Options, alone: bool, attacked: bool, gone: usize) -> Self {
        // A machine may hide a process of its own from everybody.
        let mut harmless = vec!["no permission to see the descriptors"];
        if options.procs {
            // Where there is none.
            harmless.push("they come from the process connector");
        }
        if options.names {
            harmless.push("answers from port 53 were to nobody's question");
        }
        if options.names_what_exists() {
            harmless.push("no process has pid");
        }
        if !alone {
            let names = "DNS answers or names lost";
            harmless.extend(["Possibly lost", " lost: ", "have no outcome yet", names]);
        }
        if attacked {
            harmless.extend(OF_ATTACKS);
        }
        let is_complaint = |line: &&str| !harmless.iter().any(|words| line.contains(words));
        let mut complaints: Vec<String> = done
            .stderr
            .lines()
            .filter(is_complaint)
            .map(|line| format!("it said: {line}"))
            .collect();
        if !done.status.success() {
            complaints.push(format!("it ended: {:?}", done.status));
        }
        let losses = if attacked { Losses::new(done) } else { Losses::default() };
        let (rows, lost, lives) = (BTreeMap::new(), Vec::new(), Vec::new());
        let skipped = done.stderr.split(" skipped by the kernel").next();
        let skipped = skipped.and_then(|before| before.split(' ').next_back()?.parse().ok());
        let visits = BTreeMap::new();
        let names_lost = done.stderr.contains("names may be missing");
        let mut printed = Printed {
            complaints,
            rows,
            visits,
            lost,
            lives,
            losses,
            names_lost,
            skipped: skipped.unwrap_or(0),
        };
        let number = |row: &Value, field: &str| row[field].as_u64().unwrap_or(0);
        let mut table = options.table.then(Table::default);
        let mut parse = |line: &str| match &mut table {
            Some(table) => table.row(line, options),
            None => Some(serde_json::from_str(line).expect("a line is one object")),
        };
        for (number_of_line, line) in done.stdout.lines().enumerate() {
            let Some(mut row) = parse(line) else { continue };
            row["line"] = number_of_line.into();
            row["peer_pid"] = row["peer"]["pid"].clone();
            row["query_pid"] = row["query_by"]["pid"].clone();
            match row["netns"].as_u64() {
                // An end of which a skipped run should have told is found out later, and told.
                _ if row["event"] == "lost"
                    && printed.skipped > 0
                    && number(&row, "skipped") + number(&row, "ends") == number(&row, "count") => {}
                _ if row["event"] == "lost" && alone => printed.lost.push(row),
                _ if ["fork", "exec", "comm", "exit"].iter().any(|name| row["event"] == *name) => {
                    printed.lives.push(row);
                }
                Some(netns) => printed.rows.entry(netns).or_default().push(row),
                None => {}
            }
        }
        // Of an MPTCP socket that was reset first the end is gone, which is told.
        let tells_gone = |line: &str| {
            let why = line.split_once(" lost: ").map_or("", |(_, why)| why);
            let words = "of connections whose end the kernel did not report";
            (1..=gone).any(|n| why == format!("{n} {words}"))
        };
        if done.stderr.lines().any(tells_gone) {
            printed.complaints.retain(|line| !line.contains("Possibly lost") && !tells_gone(line));
            printed.lost.retain(|row| row["ends"] != row["count"]);
        }
        if printed.skipped > 0 && printed.lost.is_empty() {
            let tells = ["Possibly lost", "skipped by the kernel"];
            printed.complaints.retain(|line| !tells.iter().any(|words| line.contains(words)));
        }
        printed
    }
    /// The next namespace may have the number of one that was deleted.
    pub fn sort_out(&mut self, visits: &BTreeSet<(u32, u32)>) {
        for &(netns, pid) in visits {
            let Some(rows) = self.rows.get_mut(&netns.into()) else { continue };
            let its = rows.extract_if(.., |row| row["pid"] == pid).collect();
            self.visits.insert((netns, pid), its);
        }
    }
}
