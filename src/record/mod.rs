// SPDX-License-Identifier: Apache-2.0
//! `--record`: what is traced is kept in a folder, by a process beside the tracer: the reader of
//! the ring never waits for a disk, and whatever becomes of the tracer, what it has said is kept.

mod calendar;
mod keeper;
#[cfg(feature = "parquet")]
mod seal;
mod store;

use std::fs;
use std::io;
use std::io::PipeWriter;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use self::store::Bounds;
use self::store::Store;
use crate::config::Config;
use crate::config::Recording;
use crate::error::warn;
use crate::host::helpers::stand_apart;
use crate::host::rights;
use crate::output::json::mark::Start;
use crate::poll::poll;
use crate::poll::readable;

/// Room for lines that the process has yet to take; as much as any user may have.
const PIPE: libc::c_int = 1 << 20;

/// After so long it is said what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The process that records.
pub struct Recorder {
    pid: libc::pid_t,
    /// Readable when it has ended.
    ended: OwnedFd,
}

/// What the tracer has of it.
pub struct ToRecorder {
    pub lines: PipeWriter,
    pub new_files: NewFiles,
}

/// By which it is asked for new files.
pub struct NewFiles(PipeWriter);

impl NewFiles {
    /// What comes from now on, or was just on its way, is in another file than what is there.
    pub fn begin(&mut self) {
        // Of many at once the pipe has no room for all, and need not.
        let _ = self.0.write(&[0]);
    }
}

impl Recorder {
    /// Whether it could record in this folder, as far as can be known without making anything.
    pub fn check(to: &Recording) -> Result<&'static str> {
        store::check(&to.dir)
    }

    /// Starts it. There must be no other thread yet.
    pub fn start(config: &Config, to: &Recording) -> Result<(Self, ToRecorder)> {
        let bounds = Bounds { size: to.size, age: to.age };
        let store = Store::open(&to.dir, bounds, start_of(to)?)?;
        let (from, lines) = io::pipe().context("failed to make a pipe")?;
        let (asked, asks) = io::pipe().context("failed to make a pipe")?;
        never_waits(&asked)?;
        never_waits(&asks)?;
        // SAFETY: takes a descriptor and a number; with less room it is only slower.
        unsafe { libc::fcntl(lines.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE) };
        // SAFETY: this is the only thread, so that all of the child's memory is whole.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("failed to start a process to record"),
            0 => {
                drop((lines, asks));
                confine(&store, [from.as_raw_fd(), asked.as_raw_fd()]);
                let is_whole = keeper::keep(store, from, asked, config.verbose);
                // SAFETY: ends the process; nothing of the tracer's copy of itself is to run.
                unsafe { libc::_exit(i32::from(!is_whole)) }
            }
            pid => {
                let ended = pidfd(pid).context("failed to watch the process that records")?;
                let recorder = Recorder { pid, ended };
                Ok((recorder, ToRecorder { lines, new_files: NewFiles(asks) }))
            }
        }
    }

    /// Once its lines have ended: waits until all is on disk. A signal that comes meanwhile should
    /// end this process.
    pub fn finish(self) -> Result<()> {
        let mut ended = [readable(self.ended.as_raw_fd())];
        poll(&mut ended, PATIENCE)?;
        if ended[0].revents == 0 {
            warn(
                "tcpconnect: --record: the disk has not taken all of it yet; waiting for that \
                 (Ctrl-C ends the waiting, not the writing)",
            );
        }
        let mut status = 0;
        // SAFETY: `status` is a valid int; the child is ours and not yet waited for.
        while unsafe { libc::waitpid(self.pid, &mut status, 0) } < 0 {
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e).context("failed to wait for the process that records");
            }
        }
        match (libc::WIFSIGNALED(status), libc::WEXITSTATUS(status)) {
            (true, _) => bail!("the process that records was killed; what came after is not kept"),
            (false, 0) => Ok(()),
            (false, _) => bail!("not all is recorded; see above"),
        }
    }
}

fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

fn never_waits(pipe: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    Ok(rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK)?)
}

fn start_of(to: &Recording) -> Result<Start> {
    let line = |path: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
        Ok(text.trim_end().to_owned())
    };
    let host = line("/proc/sys/kernel/hostname")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let options = std::env::args_os().skip(1).take_while(|word| word != "--");
    Ok(Start {
        version: env!("CARGO_PKG_VERSION"),
        host: host.chars().map(|c| if plain(c) { c } else { '_' }).collect(),
        boot_id: line("/proc/sys/kernel/random/boot_id")?,
        run: line("/proc/sys/kernel/random/uuid")?,
        sequence: 0,
        // A path need not be text.
        options: options.map(|word| word.to_string_lossy().into_owned()).collect(),
        record_args: to.args.name(),
    })
}

/// In the process that records: nothing of the tracer's stays open but standard error, it writes
/// nowhere but to its folder, and it ends when its lines do, not by the signals that end the tracer.
fn confine(store: &Store, [from, asked]: [RawFd; 2]) {
    let [root, lock] = store.descriptors();
    // SAFETY: the others belong to the tracer's copy of itself, of which nothing else runs here.
    unsafe { stand_apart(2, &[from, asked, root, lock]) };
    rights::of_a_recorder(store.root());
}

#[cfg(all(test, feature = "parquet"))]
mod tests;
