// SPDX-License-Identifier: Apache-2.0
//! How much one process can make of a row, on a real kernel: its size, and what of
//! its path and its ancestors is shown.

use std::fs;
use std::os::unix::process::CommandExt as _;

use serde_json::Value;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::scaled;
use super::live_who::copy_of;
use super::live_who::open_dir;
use super::live_who::program;

pub const TESTS: &Tests =
    &[(Cells::One, &tests![a_thousand_hostile_rows_fit_into_256_mib_of_address_space])];

/// The client's program at a path of this many folders below `dir`.
fn program_below(dir: &str, folder: &str, depth: usize) -> String {
    let at = format!("{dir}{}", format!("/{folder}").repeat(depth));
    fs::create_dir_all(&at).expect("folders");
    copy_of(program(), &format!("{at}/evil"))
}

/// Of the tracer, 256 MiB of address space.
fn in_small_space(lab: &Lab, args: &[&str]) -> Tracer {
    let mut command = lab.command(&[]);
    // SAFETY: a plain system call on a constant.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 256 << 20, rlim_max: 256 << 20 };
            match libc::setrlimit(libc::RLIMIT_AS, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Tracer::start(command, args)
}

/// Connects as many times from the end of a chain of 100 processes, all of them
/// from a path of 3,750 control bytes, while the tracer is stopped: it finds them
/// all at once.
fn burst(lab: &Lab, args: &[&str], connects: usize) -> Done {
    let (_dir, path) = open_dir();
    let exe = program_below(&path, &"\u{1}".repeat(250), 15);
    let mut client = Client::new();
    let netns = client.netns();
    let tracer = in_small_space(lab, &[args, &["--netns", &netns]].concat());
    tracer.signal(libc::SIGSTOP);
    let steps = [&["fork"; 100][..], &vec!["tap=81"; connects]].concat().join(" ");
    client.case(&format!("act exec={exe} {steps}"));
    tracer.signal(libc::SIGCONT);
    let done = tracer.stop();
    assert!(done.status.success() && done.stderr.is_empty(), "{:?} {}", done.status, done.stderr);
    let longest = done.stdout.lines().map(str::len).max();
    assert!(longest.is_some_and(|len| len < 64 << 10), "{longest:?}");
    done
}

fn a_thousand_hostile_rows_fit_into_256_mib_of_address_space(lab: &Lab) {
    let connects = scaled(1000).max(50) as usize;
    let done = burst(lab, &["-j", "--exe", "--args", "--parents"], connects);
    let rows = done.rows();
    assert_eq!(rows.len(), connects);
    for row in [&rows[0], &rows[connects - 1]] {
        assert_eq!(
            (&row["exe_truncated"], &row["parents_truncated"]),
            (&true.into(), &true.into())
        );
        let parents = row["parents"].as_array().expect("parents");
        assert_eq!(parents.len(), 36);
        let is_evil = |v: &Value| v["exe"].as_str().is_some_and(|exe| exe.ends_with("/evil"));
        assert!(is_evil(row) && parents[..32].iter().all(is_evil), "{row:#}");
        assert_eq!(parents[35]["pid"], 1);
    }
    let done = burst(lab, &["--wide"], connects);
    let rows = done.table();
    assert_eq!(rows.len(), connects);
    assert!(rows.iter().all(|row| row.contains(" < ... < ")), "{}", rows[0]);
}
