// SPDX-License-Identifier: Apache-2.0
//! `-- COMMAND`: a child that waits before its exec until tracing is on, so that
//! not even its first instruction is missed.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::PipeWriter;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;

use crate::error::CommandError;
use crate::error::text_of;
use crate::poll::poll;
use crate::poll::readable;
use crate::stop::Stop;

/// How often COMMAND is looked at in case no hook reports its end.
const LOOK: Duration = Duration::from_millis(100);
/// How long a COMMAND may take to end after the signal that ends us.
const GRACE: Duration = Duration::from_millis(200);

/// Forked, not yet running the command. Dropping it ends the child.
pub struct Paused {
    pid: u32,
    pidfd: OwnedFd,
    go: PipeWriter,
    spawner: JoinHandle<io::Result<Child>>,
    name: String,
}

impl Paused {
    /// With the environment as it was; `has_own_zone` if TZ is there only for us.
    pub fn spawn(command: &[OsString], has_own_zone: bool) -> Result<Self> {
        let (program, args) = command.split_first().context("no command given")?;
        let (mut pid_reader, mut pid_writer) = io::pipe().context("failed to make a pipe")?;
        let (mut go_reader, go) = io::pipe().context("failed to make a pipe")?;
        let go_fd = go.as_raw_fd();
        let mut child = Command::new(program);
        child.args(args);
        // A service that it starts as is told of by us alone.
        child.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        if has_own_zone {
            child.env_remove("TZ");
        }
        // SAFETY: between fork and exec the closure only closes, reads, writes
        // and asks for the pid: all async-signal-safe, and it does not allocate.
        unsafe {
            child.pre_exec(move || {
                // The child's own copy would keep the pipe open if we died.
                libc::close(go_fd);
                pid_writer.write_all(&std::process::id().to_ne_bytes())?;
                if go_reader.read_exact(&mut [0]).is_err() {
                    // Nobody is left who could report it.
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        // spawn() returns only after the exec, so it waits in a thread.
        let spawner = thread::spawn(move || child.spawn());
        let mut pid = [0; 4];
        pid_reader.read_exact(&mut pid).context("failed to start the command's process")?;
        let pid = u32::from_ne_bytes(pid);
        // SAFETY: takes numbers only. The child waits, so the pid is its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("failed to watch the command");
        }
        Ok(Paused {
            pid,
            // SAFETY: pidfd_open() just returned it.
            pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) },
            go,
            spawner,
            name: OsStr::to_string_lossy(program).into_owned(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the command run.
    pub fn release(mut self) -> Result<Running> {
        self.go.write_all(b"g").context("failed to start the command")?;
        let spawned = self.spawner.join().expect("the spawning thread does not panic");
        let child = spawned.map_err(|e| CommandError {
            code: if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 },
            why: text_of(&e),
            command: self.name,
        })?;
        Ok(Running { child, pidfd: self.pidfd })
    }
}

/// The command, running.
pub struct Running {
    child: Child,
    /// Readable once the command has ended.
    pub pidfd: OwnedFd,
}

impl Running {
    /// Its exit code if it has ended; 128+N for signal N, as shells do.
    pub fn ended(&mut self) -> Result<Option<u8>> {
        let status = self.child.try_wait().context("failed to wait for the command")?;
        Ok(status.map(exit_code))
    }

    fn wait(&mut self) -> Result<u8> {
        self.child.wait().map(exit_code).context("failed to wait for the command")
    }

    /// Waits for it; the first signal to us ends it, too.
    pub fn wait_until(&mut self, stop: &Stop) -> Result<u8> {
        while !stop.is_set() {
            if let Some(code) = self.ended()? {
                return Ok(code);
            }
            let wake = readable(stop.fd());
            poll(&mut [readable(self.pidfd.as_raw_fd()), wake], LOOK)?;
        }
        // A terminal has sent the signal to the command as well.
        poll(&mut [readable(self.pidfd.as_raw_fd())], GRACE)?;
        if self.ended()?.is_none() {
            self.terminate();
        }
        self.wait()
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).expect("pids fit an i32");
        // SAFETY: the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|n| 128 + n)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The name under which the program was called, without its folder.
pub fn called_as(arg0: Option<OsString>) -> OsString {
    let arg0 = arg0.unwrap_or_default();
    let name = arg0.as_bytes().rsplit(|&b| b == b'/').next().unwrap_or_default();
    OsStr::from_bytes(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_128_plus_its_number() {
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGKILL)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
    }

    #[test]
    fn the_folder_of_the_program_does_not_matter() {
        assert_eq!(called_as(Some("/usr/sbin/tcpv4connect".into())), "tcpv4connect");
        assert_eq!(called_as(None), "");
    }
}
