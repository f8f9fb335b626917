// SPDX-License-Identifier: Apache-2.0
//! What a run would open, make or start: looked at, and left as it is.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use rustix::fs::Access;
use rustix::fs::access;

use super::Finding;
use super::Severity;
use crate::config::Config;
use crate::error::CommandError;
use crate::error::text_of;
use crate::host::privilege;
use crate::model::cause::Cause;
use crate::output::sink::Sink;
use crate::record::Recorder;
use crate::trace;

pub fn look(config: &Config) -> Vec<Finding> {
    let output = config.output.as_deref().map(|path| match Sink::check(path) {
        Ok(what) => Finding::ok("output", what),
        Err(why) => Finding::new("output", Severity::Fail, Cause::Output, why),
    });
    let record = config.record.as_ref().map(|to| match Recorder::check(to) {
        Ok(what) => Finding::ok("record", what),
        Err(e) => Finding::new("record", Severity::Fail, Cause::Record, format!("{e:#}")),
    });
    let command = config.command.first().map(|program| command(program));
    [output, record, past(config), command].into_iter().flatten().collect()
}

/// What this host has recorded.
pub fn past(config: &Config) -> Option<Finding> {
    if config.past.is_none() && config.read.is_none() {
        return None;
    }
    Some(match trace::check_past(config) {
        Ok(()) => Finding::ok("past", "what was recorded can be read"),
        Err(e) => Finding::new("past", Severity::Fail, Cause::Past, format!("{e:#}")),
    })
}

pub fn ready(taken: Result<()>) -> Finding {
    match taken {
        Ok(()) => Finding::ok("ready-fd", "it is open, and somebody reads it"),
        Err(e) => Finding::new("ready-fd", Severity::Fail, Cause::ReadyFd, format!("{e:#}")),
    }
}

/// As execvp() looks for it.
fn command(program: &OsStr) -> Finding {
    let is_path = program.as_bytes().contains(&b'/');
    let paths: Vec<PathBuf> = match is_path {
        true => vec![program.into()],
        false => {
            let folders = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
            env::split_paths(&folders).map(|folder| folder.join(program)).collect()
        }
    };
    let mut why = io::Error::from_raw_os_error(libc::ENOENT);
    for path in paths {
        match may_run(&path) {
            Ok(()) => return Finding::ok("command", "it can be found, and was not run"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => why = e,
        }
    }
    let code = if why.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let command = program.to_string_lossy().into_owned();
    let error = CommandError { command, why: text_of(&why), code };
    Finding::new("command", Severity::Fail, Cause::Command, error.to_string())
}

fn may_run(path: &Path) -> io::Result<()> {
    match path.metadata()?.is_file() {
        true => Ok(access(path, Access::EXEC_OK)?),
        false => Err(io::Error::from_raw_os_error(libc::EACCES)),
    }
}

/// Of a program whose file lends rights: who may run it.
pub fn binary() -> Option<Finding> {
    if !privilege::are_lent() {
        return None;
    }
    let meta = std::fs::metadata("/proc/self/exe").ok()?;
    Some(match meta.mode() & 0o001 {
        0 => Finding::ok("binary", "its file lends rights, to its group alone"),
        _ => {
            let what = "its file lends rights, and everybody may run it";
            Finding::new("binary", Severity::Note, Cause::LentToAll, what)
        }
    })
}
