// SPDX-License-Identifier: Apache-2.0
//! Tells the service manager that tracing is on, and that it goes on: sd_notify(3).

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;

/// Who started this program as a service.
pub struct Manager {
    to: File,
    /// It is to hear from us so often, or ends us.
    watchdog: Option<Duration>,
    told: Instant,
}

impl Manager {
    /// To be called before the program confines itself, which can open no socket from then on.
    pub fn from_environment() -> Result<Option<Self>> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let socket = connect(name.as_bytes()).context("failed to reach NOTIFY_SOCKET")?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours).map(Duration::from_micros);
        // write() does what sendto() would, which the filter of system calls does not let through.
        let to = File::from(OwnedFd::from(socket));
        Ok(Some(Manager { to, watchdog, told: Instant::now() }))
    }

    /// Tracing is on.
    pub fn ready(&mut self) {
        self.tell(b"READY=1\nSTATUS=Tracing");
    }

    /// Is called all the time; tells it twice in the time that it waits.
    pub fn is_alive(&mut self) {
        if self.watchdog.is_some_and(|time| self.told.elapsed() >= time / 2) {
            self.tell(b"WATCHDOG=1");
        }
    }

    /// When it has to be told so again.
    pub fn due(&self) -> Option<Duration> {
        self.watchdog.map(|time| (time / 2).saturating_sub(self.told.elapsed()))
    }

    /// What was traced is being written to its end.
    pub fn stopping(&mut self) {
        self.tell(b"STOPPING=1");
    }

    /// A manager that does not listen any more is no reason to end.
    fn tell(&mut self, what: &[u8]) {
        self.told = Instant::now();
        let _ = self.to.write(what);
    }
}

fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let to = connect(path.as_os_str().as_bytes()).unwrap();
        let to = File::from(OwnedFd::from(to));
        let mut told = Manager { to, watchdog: Some(Duration::ZERO), told: Instant::now() };
        let heard = || {
            let mut text = [0; 64];
            let len = manager.recv(&mut text).unwrap();
            String::from_utf8(text[..len].to_vec()).unwrap()
        };
        told.ready();
        assert_eq!(heard(), "READY=1\nSTATUS=Tracing");
        told.is_alive();
        assert_eq!(heard(), "WATCHDOG=1");
        told.stopping();
        assert_eq!(heard(), "STOPPING=1");
        // It may end before us.
        drop(manager);
        told.ready();
    }
}
