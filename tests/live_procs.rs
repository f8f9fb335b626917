// SPDX-License-Identifier: Apache-2.0
//! What is kept of processes, on a real kernel: long lines of ancestors, much text,
//! and records that did not fit.

use serde_json::Value;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::live_who::lineage;

pub const TESTS: &Tests =
    &[(Cells::One, &tests![the_first_ancestors_are_shown_below_seventy_dead_ones])];

fn the_first_ancestors_are_shown_below_seventy_dead_ones(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--parents", "--netns", &client.netns()]);
    client.case(&format!("act {}name=last knock=81", "orphan ".repeat(70)));
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    let parents = rows[0]["parents"].as_array().expect("an array");
    let pids: Vec<_> = parents.iter().map(|parent| &parent["pid"]).collect();
    let above = lineage(client.pid());
    let first: Vec<&Value> = above.iter().rev().take(4).rev().map(|known| &known["pid"]).collect();
    assert_eq!((pids.len(), &pids[32..]), (36, &first[..]), "{above:?}");
    assert_eq!(pids[0], &rows[0]["ppid"]);
    assert!(pids[..32].iter().all(|pid| above.iter().all(|known| known["pid"] != **pid)));
}
