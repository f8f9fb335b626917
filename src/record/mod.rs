// SPDX-License-Identifier: Apache-2.0
//! `--record`: what is traced is kept in a folder, by a process beside the tracer: the reader of
//! the ring never waits for a disk, and whatever becomes of the tracer, what it has said is kept.

mod keeper;
#[cfg(feature = "parquet")]
mod seal;
mod store;

use std::fs;
use std::io;
use std::io::PipeWriter;
use std::os::fd::AsRawFd as _;
use std::os::fd::RawFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use self::store::Bounds;
use self::store::Store;
use crate::config::Config;
use crate::config::Recording;
use crate::host::helpers::stand_apart;
use crate::host::rights;
use crate::output::json::mark::Start;

/// Room for lines that the process has yet to take; as much as any user may have.
const PIPE: libc::c_int = 1 << 20;

/// The process that records.
pub struct Recorder {
    pid: libc::pid_t,
}

impl Recorder {
    /// Starts it. There must be no other thread yet. Lines go to what is returned.
    pub fn start(config: &Config, to: &Recording) -> Result<(Self, PipeWriter)> {
        let bounds = Bounds { size: to.size, age: to.age };
        let store = Store::open(&to.dir, bounds, start_of(to)?)?;
        let (from, lines) = io::pipe().context("failed to make a pipe")?;
        // SAFETY: takes a descriptor and a number; with less room it is only slower.
        unsafe { libc::fcntl(lines.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE) };
        // SAFETY: this is the only thread, so that all of the child's memory is whole.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("failed to start a process to record"),
            0 => {
                drop(lines);
                confine(&store, from.as_raw_fd());
                let is_whole = keeper::keep(store, from, config.verbose);
                // SAFETY: ends the process; nothing of the tracer's copy of itself is to run.
                unsafe { libc::_exit(i32::from(!is_whole)) }
            }
            pid => Ok((Recorder { pid }, lines)),
        }
    }

    /// Once its lines have ended: waits until all is on disk.
    pub fn finish(self) -> Result<()> {
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
fn confine(store: &Store, from: RawFd) {
    let [root, lock] = store.descriptors();
    // SAFETY: the others belong to the tracer's copy of itself, of which nothing else runs here.
    unsafe { stand_apart(2, &[from, root, lock]) };
    rights::of_a_recorder(store.root());
}
