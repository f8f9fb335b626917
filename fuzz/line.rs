// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a line of --read: reading never panics, and what it makes of them is printed as
//! one line, which says the same when it is read again.
#![no_main]

use std::cell::RefCell;

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use tcpconnect::clock::WallClock;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::output;
use tcpconnect::output::Output;
use tcpconnect::output::json::read::What;
use tcpconnect::output::json::read::read;

const OPTIONS: &str = "tcpconnect -j -d --wide --user --vpid --cgroup-path --container-id --procs";

thread_local! {
    static JSON: RefCell<Box<dyn Output>> = {
        let cli = Cli::try_parse_from(OPTIONS.split(' ')).expect("the options are right");
        let config = Config::new(cli, false).expect("the options go together");
        RefCell::new(output::new(&config, Vec::new()))
    };
}

fn print(line: &str) -> Option<String> {
    let printed = read(line).ok()?;
    let mut text = Vec::new();
    JSON.with_borrow_mut(|json| {
        printed.boot.into_iter().for_each(|boot| json.booted(boot));
        let clock = |ts_ns: u64| WallClock::at(printed.unix_ns.saturating_sub(ts_ns));
        match &printed.what {
            What::Connection(row) => {
                json.connect(&row.row(), &clock(row.connect.ts_ns), &mut text);
            }
            What::Process(row) => json.process(row, &clock(row.ts_ns), &mut text),
            What::Lost(lost) => json.lost(lost, printed.unix_ns, &WallClock::at(0), &mut text),
            _ => {}
        }
    });
    let text = String::from_utf8(text).expect("a line is UTF-8");
    let line = text.strip_suffix('\n')?;
    assert!(!line.contains('\n'));
    Some(line.to_owned())
}

fuzz_target!(|sample: &[u8]| {
    let Some(once) = std::str::from_utf8(sample).ok().and_then(print) else { return };
    // What was too long is cut the first time, and a number may be no more than what is kept of it.
    let twice = print(&once).expect("what was printed can be read");
    assert_eq!(print(&twice).as_ref(), Some(&twice));
});
