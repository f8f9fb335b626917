// SPDX-License-Identifier: Apache-2.0
//! The filters in the kernel and `Filter::wants` judge the same connects, and agree.

use clap::Parser as _;
use serde_json::Value;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::model::filter::Filter;
use tcpconnect::model::filter::Place;
use tcpconnect::model::filter::Task;
use tcpconnect::model::process::Comm;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::lab::scaled;

pub const TESTS: &Tests =
    &[(Cells::OneBuffer, &tests![the_kernel_and_user_space_want_the_same_connects])];

/// Each with whether its socket is of IPv6.
const CASES: [(&str, bool); 9] = [
    ("plain_ipv4", false),
    ("plain_ipv6", true),
    ("ipv4_mapped", true),
    ("refused", false),
    ("named_thread worker", false),
    ("fork", false),
    ("other_uid", false),
    ("connect 127.0.0.2 81", false),
    ("connect ::1 82", true),
];
/// Parts of filters; `PID` is the client.
const PARTS: [&[&str]; 8] = [
    &["-p PID", "-p PID,1", "-p 1"],
    &["-u 0", "-u 65534"],
    &["--comm client", "--comm worker"],
    &["-P 80-82", "-P 81", "-P 1-79,83-65535"],
    &["-4", "-6"],
    &["--to 127.0.0.0/8", "--to ::/0", "--to 127.0.0.2,::1"],
    &["--not-to 127.0.0.1", "--not-to ::/0,127.0.0.2", "--not-to 0.0.0.0/0"],
    &[""],
];
const COMBINED: usize = 8;

/// Every part once or more alone, and some combined: the same each time.
fn filters(pid: u32) -> Vec<String> {
    let alone = PARTS.iter().flat_map(|choices| choices.iter().map(|part| part.to_string()));
    let mut roll = 1u64;
    let mut next = |below: usize| {
        roll = roll.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (roll >> 33) as usize % below
    };
    let combined = (0..COMBINED).map(|_| {
        let mut parts = Vec::new();
        for choices in PARTS.iter().filter(|choices| choices.len() > 1) {
            if next(5) < 2 {
                parts.push(choices[next(choices.len())]);
            }
        }
        parts.join(" ")
    });
    let combined: Vec<_> = combined.collect();
    alone.chain(combined).map(|text| text.replace("PID", &pid.to_string())).collect()
}

fn filter(text: &str) -> Filter {
    let args = ["tcpconnect"].into_iter().chain(text.split_ascii_whitespace());
    let cli = Cli::try_parse_from(args).expect("each filter is valid");
    Config::new(cli, false).expect("its parts go together").filter
}

fn wants(filter: &Filter, row: &Value, is_v6: bool) -> bool {
    let number = |name: &str| row[name].as_u64().map(|n| u32::try_from(n).expect("a number"));
    let addr = row["daddr"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    // The thread's name, where it is another one than the process's.
    let name = row.get("thread").unwrap_or(&row["comm"]);
    let task = Task {
        pid: number("pid"),
        descends: false,
        uid: number("uid"),
        comm: name.as_str().map(|name| Comm::new(name.as_bytes())),
    };
    let there = Some((addr, number("dport").expect("a port") as u16));
    filter.wants(&task, &Place { is_v6, here: None, there })
}

/// By what a connect is known to every tracer.
fn key(row: &Value) -> [Value; 3] {
    ["pid", "lport", "dport"].map(|name| row[name].clone())
}

fn the_kernel_and_user_space_want_the_same_connects(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    // Emulated each tracer takes half a second to start: each hook has some of the filters.
    let (first, every) = match (scaled(8), &*lab.attach) {
        (8, _) => (0, 1),
        (_, "fentry") => (0, 4),
        (_, "kprobe") => (1, 4),
        _ => (2, 4),
    };
    let filters: Vec<_> = filters(client.pid()).into_iter().skip(first).step_by(every).collect();
    let args: Vec<Vec<&str>> = filters
        .iter()
        .map(|text| ["-j", "--netns", &netns].into_iter().chain(text.split_whitespace()).collect())
        .collect();
    let whole = lab.trace(&["-j", "--netns", &netns]);
    let tracers = lab.trace_all(&args);
    let mut made = Vec::new();
    for (case, is_v6) in CASES {
        made.extend(client.case(case).iter().map(|fact| (key(fact), is_v6)));
    }
    let whole = whole.stop().rows();
    assert!(whole.len() >= CASES.len(), "{whole:#?}");
    for (text, tracer) in filters.iter().zip(tracers) {
        let filter = filter(text);
        let is_v6 = |row: &Value| {
            let fact = made.iter().find(|(known, _)| *known == key(row));
            fact.unwrap_or_else(|| panic!("{row:#} was not made")).1
        };
        let expected: Vec<_> =
            whole.iter().filter(|row| wants(&filter, row, is_v6(row))).map(key).collect();
        let seen: Vec<_> = tracer.stop().rows().iter().map(key).collect();
        assert_eq!(seen, expected, "{text:?}");
    }
}
