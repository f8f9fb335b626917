// SPDX-License-Identifier: Apache-2.0
//! Any bytes as one record from the kernel: decoding never panics, and whatever
//! decodes makes one line of a table and one of JSON.
#![no_main]

use std::borrow::Cow;
use std::cell::RefCell;

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tcpconnect::clock::WallClock;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::kernel::record;
use tcpconnect::model::event::Connect;
use tcpconnect::model::event::Event;
use tcpconnect::model::event::Life;
use tcpconnect::model::process::Change;
use tcpconnect::model::process::ProcessEvent;
use tcpconnect::model::row::ProcessRow;
use tcpconnect::model::row::ProcessRowKind;
use tcpconnect::model::row::Row;
use tcpconnect::output;
use tcpconnect::output::Output;
use tcpconnect::who::processes::Processes;

const OPTIONS: &str = "-T -t -L -f -r --life --accept --exe --args --parents --procs";
/// No process has such a pid, so nothing is looked for in /proc.
const NOBODY: u32 = 5_000_000;

fn output(more: &[&str]) -> RefCell<Box<dyn Output>> {
    let words = ["tcpconnect"].into_iter().chain(OPTIONS.split(' ')).chain(more.iter().copied());
    let cli = Cli::try_parse_from(words).expect("the options are right");
    RefCell::new(output::new(
        &Config::new(cli, false).expect("the options go together"),
        Vec::new(),
    ))
}

thread_local! {
    static TABLE: RefCell<Box<dyn Output>> = output(&[]);
    static JSON: RefCell<Box<dyn Output>> = output(&["-j"]);
}

fn check(write: impl Fn(&mut dyn Output, &mut Vec<u8>)) {
    let line = |of: &RefCell<Box<dyn Output>>| {
        let mut line = Vec::new();
        write(&mut **of.borrow_mut(), &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        String::from_utf8(line).expect("a line is UTF-8")
    };
    let row = TABLE.with(line);
    assert!(!row.contains(char::is_control), "{row:?}");
    let object = JSON.with(line);
    assert!(matches!(serde_json::from_str(&object), Ok(Value::Object(_))), "{object}");
    assert!(!object.contains('\n'));
}

fn check_connect(connect: &Connect, life: Option<&Life>) {
    let row = Row { life, ..Row::bare(connect) };
    check(|output, line| output.connect(&row, &WallClock::at(0), line));
}

fn check_process(event: ProcessEvent) {
    let event = ProcessEvent { pid: NOBODY, parent: NOBODY + 1, proc_pid: NOBODY, ..event };
    let mut processes = Processes::default();
    processes.apply(&event);
    let ProcessEvent { ts_ns, pid, tid, name, uid, gid, start_ns, exec_id, .. } = event;
    let connect = Connect { ts_ns, pid, tid, start_ns, exec_id, ..Connect::nowhere() };
    let process = processes.of(&connect);
    let happening = ProcessRow {
        ts_ns,
        pid,
        tid,
        name,
        ppid: Some(event.parent),
        uid: Some(uid),
        gid: Some(gid),
        user: None,
        container: None,
        cgroup: None,
        unit: None,
        process: Some(process.facts(true)),
        kind: match &event.change {
            Change::Fork => ProcessRowKind::Fork,
            Change::Exec(image) => ProcessRowKind::Exec(Cow::Borrowed(image)),
            Change::Rename(comm) => ProcessRowKind::Comm(*comm),
            Change::Exit(status) => ProcessRowKind::Exit(*status),
        },
    };
    check(|output, line| output.process(&happening, &WallClock::at(0), line));
    let row = Row { process: Some(Cow::Owned(process.facts(true))), ..Row::bare(&connect) };
    check(|output, line| output.connect(&row, &WallClock::at(0), line));
}

fuzz_target!(|sample: &[u8]| {
    let _ = record::decode_list(sample);
    let (key, value) = sample.split_at(sample.len().min(record::FLOW_LEN));
    let _ = record::decode_flow(key, value);
    match record::decode(sample) {
        Ok(Event::Connect(connect)) => check_connect(&connect, None),
        Ok(Event::Life(life)) => check_connect(&life.connect, Some(&life)),
        Ok(Event::Process(event)) => check_process(*event),
        // A cgroup's name only leads to its path, what came from port 53 is read by
        // the other target, and the connector's events are not decoded here.
        Ok(Event::Cgroup(_) | Event::Dns(_) | Event::Notice(_) | Event::Retract { .. })
        | Err(_) => {}
    }
});
