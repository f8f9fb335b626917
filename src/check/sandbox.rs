// SPDX-License-Identifier: Apache-2.0
//! How far a run would be confined: a process of our own is, as the run would be.

use std::io;
use std::io::Read as _;
use std::io::Write as _;

use super::Finding;
use super::Severity;
use crate::config::Config;
use crate::config::cli::Sandbox;
use crate::host::rights;
use crate::host::rights::Confined;
use crate::model::cause::Cause;
use crate::plan;
use crate::trace;

/// What the process ends with.
const CONFINED: i32 = 0;
const WITHOUT_LANDLOCK: i32 = 1;
const NOT_CONFINED: i32 = 2;
const FAILED: i32 = 3;

/// There must be no other thread.
pub fn look(config: &Config, uses_perf: bool) -> Finding {
    let host = trace::host_while_tracing(uses_perf);
    let command = (!config.command.is_empty()).then(std::process::id);
    let needed = plan::capabilities(config, host);
    let confined = in_a_process(|| {
        rights::give_up(needed, &|_| ())?;
        let is_strict = config.sandbox == Sandbox::Strict;
        plan::needs(config, host, command)
            .map(|needs| rights::confined(needs, is_strict))
            .transpose()
    });
    match confined {
        Err(e) => {
            let what = format!("a process to confine cannot be started: {e}");
            Finding::new("sandbox", Severity::Unknown, Cause::NotTried, what)
        }
        Ok((CONFINED, what)) => Finding::ok("sandbox", what),
        Ok((WITHOUT_LANDLOCK, what)) => {
            Finding::new("sandbox", Severity::Note, Cause::NoLandlock, what)
        }
        Ok((NOT_CONFINED, what)) => {
            Finding::new("sandbox", Severity::Note, Cause::NotConfined, what)
        }
        Ok((_, what)) => Finding::new("sandbox", Severity::Fail, Cause::NotConfined, what),
    }
}

fn in_a_process(
    confine: impl FnOnce() -> anyhow::Result<Option<Confined>>,
) -> io::Result<(i32, String)> {
    let (mut from, mut to) = io::pipe()?;
    // SAFETY: this is the only thread, so that all of the child's memory is whole.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let (status, words) = match confine() {
                Ok(None) => (CONFINED, "--sandbox off: capabilities alone are given up".to_owned()),
                Ok(Some(Confined { is_confined, lacks_landlock, words })) => {
                    let status = match (is_confined, lacks_landlock) {
                        (false, _) => NOT_CONFINED,
                        (true, true) => WITHOUT_LANDLOCK,
                        (true, false) => CONFINED,
                    };
                    (status, words)
                }
                Err(e) => (FAILED, format!("{e:#}")),
            };
            let _ = to.write_all(words.as_bytes());
            // SAFETY: ends the process; nothing else of this copy is to run.
            unsafe { libc::_exit(status) }
        }
        pid => {
            drop(to);
            let mut words = String::new();
            from.read_to_string(&mut words)?;
            let mut status = 0;
            // SAFETY: `status` is a valid int; the child is ours and not yet waited for.
            while unsafe { libc::waitpid(pid, &mut status, 0) } < 0 {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
            match libc::WIFEXITED(status) {
                true => Ok((libc::WEXITSTATUS(status), words)),
                false => Err(io::Error::other("it was killed")),
            }
        }
    }
}
