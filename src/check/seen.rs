// SPDX-License-Identifier: Apache-2.0
//! What is looked at beside the hooks: processes and sockets that are there, and what runtimes
//! have written down of their containers.

use super::Finding;
use super::Severity;
use super::hooks::failure;
use crate::config::Config;
use crate::config::cli::Snapshot;
use crate::host::containers::runtimes;
use crate::host::privilege;
use crate::host::proc;
use crate::model::cause::Cause;
use crate::plan::Plan;
use crate::snapshot;
use crate::snapshot::existing;

/// Programs, arguments and parents.
pub fn processes(plan: &Plan) -> Vec<Finding> {
    if !plan.processes {
        return Vec::new();
    }
    let (all, denied) = proc::programs();
    let here = match denied {
        0 => Finding::ok("processes", format!("the programs of {all} processes can be read")),
        _ => {
            let what = format!("the programs of {denied} of {all} processes may not be read");
            Finding::new("processes", Severity::Less, Cause::Ptrace, what)
        }
    };
    let later = (!privilege::may_probe()).then(|| {
        let what = "of programs that start while it traces, EXE and ARGS are not known";
        Finding::new("programs", Severity::Less, Cause::Lockdown, what)
    });
    [here].into_iter().chain(later).collect()
}

/// `lacks_all` if --wide has no CONTAINER on this host.
pub fn containers(config: &Config, lacks_all: bool) -> Finding {
    if lacks_all {
        let cause = if privilege::may_probe() { Cause::NoCgroups } else { Cause::Lockdown };
        let what = "--wide has no CONTAINER here";
        return Finding::new("containers", Severity::Less, cause, what);
    }
    let found = runtimes();
    let named = |readable: bool| -> Vec<&str> {
        found.iter().filter(|(_, is)| *is == readable).map(|(name, _)| *name).collect()
    };
    let (readable, closed) = (named(true), named(false));
    match (readable.as_slice(), closed.as_slice()) {
        ([], []) => Finding::ok("containers", "no files of a runtime where they are by default"),
        (names, []) => Finding::ok("containers", format!("files of {}", names.join(", "))),
        (_, closed) => {
            let severity = if config.names_containers() { Severity::Less } else { Severity::Note };
            let what = format!("files of {} may not be read", closed.join(", "));
            Finding::new("containers", severity, Cause::DacReadSearch, what)
        }
    }
}

/// Connections that are there when tracing begins.
pub fn existing(config: &Config, plan: &Plan) -> Option<Finding> {
    if !plan.lists {
        return None;
    }
    Some(match existing::find(config) {
        Ok(found) => sockets(
            format!("connections of processes that can be listed: {}", found.rows.len()),
            found.unseen,
        ),
        Err(e) => failure("sockets", &e),
    })
}

pub fn snapshot(config: &Config, what: Snapshot) -> Finding {
    match snapshot::found(&config.filter, what) {
        Ok((namespaces, found, unseen)) => {
            let what =
                format!("sockets that can be listed: {found}, in network namespaces: {namespaces}");
            sockets(what, unseen)
        }
        Err(e) => failure("sockets", &e),
    }
}

fn sockets(what: String, unseen: Option<String>) -> Finding {
    match unseen {
        None => Finding::ok("sockets", what),
        Some(unseen) => {
            Finding::new("sockets", Severity::Less, Cause::Unseen, format!("{what}; {unseen}"))
        }
    }
}
