// SPDX-License-Identifier: Apache-2.0
//! `--check`: what this host gives a run with these options, and what it does not. Each part looks
//! at one thing, as a run would: it attaches and detaches, confines a process of its own, connects
//! to itself. Nothing of that stays. What is said of a cause is in `words`.

mod files;
mod finding;
mod hooks;
mod machine;
mod sandbox;
mod seen;
mod self_test;
pub mod words;

use std::process::ExitCode;

pub use self::finding::Finding;
use self::finding::Report;
pub use self::finding::Severity;
use crate::config::Config;
use crate::error::warn;
use crate::host::containers;
use crate::host::privilege;
use crate::output::sink::Sink;
use crate::output::sink::end_of_output;
use crate::plan::Plan;
use crate::trace;
use crate::trace::ready::Ready;

/// Prints what was found. The status is that of the worst of it.
pub fn run(config: &Config) -> ExitCode {
    let report = Report::new(config, look(config));
    let written = Sink::stdout(None).and_then(|mut sink| {
        let written = sink.write_all(&mut report.text());
        written.or_else(|e| end_of_output(e, "stdout"))
    });
    if let Err(e) = written {
        warn(&format!("tcpconnect: {e:#}"));
    }
    ExitCode::from(report.status())
}

fn look(config: &Config) -> Vec<Finding> {
    // Before anything is opened: another number would be one of our own.
    let ready = config.ready_fd.map(|fd| Ready::take(fd).and_then(|ready| ready.check()));
    let mut found = machine::look(config);
    found.extend(ready.map(files::ready));
    if config.read.is_some() {
        // All of it is over.
        found.extend(files::past(config));
        return found;
    }
    match config.snapshot {
        Some(what) => found.push(seen::snapshot(config, what)),
        None => found.extend(of_a_trace(config)),
    }
    found.extend(files::look(config));
    found.extend(files::binary());
    found
}

fn of_a_trace(config: &Config) -> Vec<Finding> {
    let lacks_containers = config.may_lack_containers && !containers::are_told();
    let config = &match lacks_containers {
        true => config.clone().where_containers_are_unknown(),
        false => config.clone(),
    };
    let plan = Plan::new(config, trace::host());
    let mut found = Vec::new();
    let hooks = match privilege::missing() {
        Some(_) => hooks::untried(),
        None => hooks::look(config, &plan),
    };
    found.extend(hooks.found);
    found.extend(seen::processes(&plan));
    found.push(seen::containers(config, lacks_containers));
    found.extend(seen::existing(config, &plan));
    let uses_perf = hooks.used.as_ref().is_some_and(|used| plan.rows && !used.is_ring());
    found.push(sandbox::look(config, uses_perf));
    found.extend(hooks.used.and_then(|used| self_test::look(config, &used)));
    found
}
