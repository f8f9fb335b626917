// SPDX-License-Identifier: Apache-2.0
//! Where rows go: stdout, or the file of `--output`. Waits for whoever reads them, but
//! not beyond a signal; drops and counts what a full disk does not take. Knows nothing
//! of rows but that each is a line.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::PipeWriter;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use crate::config::Config;
use crate::error::text_of;
use crate::error::warn;
use crate::output::output_file;
use crate::poll::poll;
use crate::poll::readable;
use crate::poll::writable;
use crate::stop::Stop;

/// How often a full disk is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an output that takes nothing is waited for once the program is to end.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// How often the flag of a signal is looked at, should its descriptor say nothing.
const LOOK: Duration = Duration::from_millis(100);

/// How a write is kept from waiting for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// A file or device: does not wait for anybody.
    AtOnce,
    /// The descriptor does not block.
    Nonblocking,
    /// It may, and others share it: PIPE_BUF bytes at a time, for which a pipe that polls
    /// as writable has room.
    InPieces,
}

pub struct Sink {
    file: File,
    pub name: String,
    manner: Manner,
    /// Of `--output`, and still holds what was in it.
    is_uncut: bool,
    stop: Option<Stop>,
    /// No room since then; what the kernel said.
    full: Option<(Instant, io::Error)>,
    has_warned: bool,
    /// Nobody took anything after the signal that ends us.
    given_up: bool,
    dropped: u64,
}

fn unwritable(name: &str, why: &str) -> String {
    format!("cannot write to --output '{name}': {why}")
}

impl Sink {
    /// `stop` ends waiting; without it only the reader does.
    pub fn open(config: &Config, stop: Option<Stop>) -> Result<Self> {
        let Some(path) = &config.output else { return Self::stdout(stop) };
        let name = path.display().to_string();
        let file = match output_file::open(path) {
            Ok(file) => file,
            Err(why) => bail!(unwritable(&name, &why)),
        };
        let manner = match flags(&file) & libc::O_NONBLOCK {
            0 => Manner::AtOnce,
            _ => Manner::Nonblocking,
        };
        Ok(Sink { is_uncut: true, ..Sink::new(file, name, manner, stop) })
    }

    /// Whether `open` would have this file, as far as that can be known without making one.
    pub fn check(path: &Path) -> Result<&'static str, String> {
        output_file::check(path).map_err(|why| unwritable(&path.display().to_string(), &why))
    }

    /// To a process of our own.
    pub fn pipe(to: PipeWriter, name: &str, stop: Option<Stop>) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&to)?;
        rustix::fs::fcntl_setfl(&to, flags | rustix::fs::OFlags::NONBLOCK)?;
        let file = File::from(OwnedFd::from(to));
        Ok(Sink::new(file, name.into(), Manner::Nonblocking, stop))
    }

    pub fn stdout(stop: Option<Stop>) -> Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let file = File::from(stdout.context("failed to open stdout")?);
        let kind = file.metadata().context("failed to open stdout")?.file_type();
        // SAFETY: asks about an open descriptor.
        let is_terminal = unsafe { libc::isatty(file.as_raw_fd()) } == 1;
        let (file, manner) = match () {
            () if !kind.is_fifo() && !kind.is_socket() && !is_terminal => (file, Manner::AtOnce),
            () if flags(&file) & libc::O_NONBLOCK != 0 => (file, Manner::Nonblocking),
            // What others share is not to be changed for them.
            () => match reopen(&file) {
                Ok(own) => (own, Manner::Nonblocking),
                Err(_) => (file, Manner::InPieces),
            },
        };
        Ok(Sink::new(file, "stdout".into(), manner, stop))
    }

    fn new(file: File, name: String, manner: Manner, stop: Option<Stop>) -> Self {
        Sink {
            file,
            name,
            manner,
            is_uncut: false,
            stop,
            full: None,
            has_warned: false,
            given_up: false,
            dropped: 0,
        }
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whose readers may go away; a file or device has none.
    pub fn watched_fd(&self) -> Option<RawFd> {
        (self.manner != Manner::AtOnce).then(|| self.fd())
    }

    /// Lines that could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The next write would be dropped without a try.
    pub fn is_full(&self) -> bool {
        self.given_up || self.full.as_ref().is_some_and(|(at, _)| at.elapsed() < AGAIN)
    }

    /// The end of what comes first. A file loses what was in it only with this or the first
    /// text before it, when nothing can go wrong any more but the write itself.
    pub fn begin(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        self.cut()?;
        self.write_all(text)
    }

    fn cut(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_uncut) && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(())
    }

    /// One write for the whole batch, which ends with a line's end. What does not fit on a
    /// full disk is dropped and counted.
    pub fn write(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let dropped = self.put(text).inspect_err(|_| text.clear())?;
        if dropped > 0
            && let Some((_, why)) = self.full.as_ref().filter(|_| !self.has_warned)
        {
            self.has_warned = true;
            warn(&format!(
                "tcpconnect: {}: {}; rows are dropped and counted until there is room",
                self.name,
                text_of(why)
            ));
        }
        self.dropped += dropped;
        text.clear();
        Ok(())
    }

    /// As `write`, of text that is no rows: true if all of it was written.
    pub fn write_beside(&mut self, text: &mut Vec<u8>) -> io::Result<bool> {
        let dropped = self.put(text);
        text.clear();
        Ok(dropped? == 0)
    }

    /// As `write`, but a full disk is an error.
    pub fn write_all(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let is_written = self.write_beside(text)?;
        match self.full.take() {
            Some((_, why)) if !is_written => Err(why),
            _ => Ok(()),
        }
    }

    /// Returns how many lines were not written.
    fn put(&mut self, text: &[u8]) -> io::Result<u64> {
        if self.is_full() {
            return Ok(lines(text));
        }
        self.cut()?;
        let mut done = 0;
        let failed = loop {
            if done == text.len() {
                self.full = None;
                return Ok(0);
            }
            match self.piece(&text[done..]) {
                Ok(0) => break Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait()? {
                        self.given_up = true;
                        break None;
                    }
                }
                Err(e) => break Some(e),
            }
        };
        let whole = text[..done].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        self.cut_back((done - whole) as u64);
        match failed {
            Some(e) if !is_out_of_room(&e) => return Err(e),
            Some(e) => self.full = Some((Instant::now(), e)),
            None => {}
        }
        Ok(lines(&text[whole..]))
    }

    fn piece(&mut self, text: &[u8]) -> io::Result<usize> {
        let most = match self.manner {
            Manner::InPieces => {
                let mut fds = [writable(self.fd())];
                poll(&mut fds, Duration::ZERO)?;
                if fds[0].revents == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                libc::PIPE_BUF
            }
            _ => text.len(),
        };
        self.file.write(&text[..text.len().min(most)])
    }

    /// Until the output takes something, or will not in time.
    fn wait(&self) -> io::Result<bool> {
        let mut deadline = None;
        loop {
            let is_ending = self.stop.as_ref().is_some_and(Stop::is_set);
            if is_ending && Instant::now() >= *deadline.get_or_insert(Instant::now() + LAST_CHANCE)
            {
                return Ok(false);
            }
            // From then on its descriptor is always readable.
            let bell = self.stop.as_ref().filter(|_| !is_ending).map_or(-1, Stop::fd);
            let mut fds = [writable(self.fd()), readable(bell)];
            poll(&mut fds, LOOK)?;
            if fds[0].revents != 0 {
                return Ok(true);
            }
        }
    }

    /// A line that is there in part would spoil the file for who reads lines. Not if
    /// somebody else has written behind it.
    fn cut_back(&mut self, torn: u64) {
        let Ok(meta) = self.file.metadata() else { return };
        let end = match flags(&self.file) & libc::O_APPEND {
            0 => self.file.stream_position().unwrap_or(0),
            _ => meta.len(),
        };
        if torn > 0 && meta.is_file() && end == meta.len() && torn <= end {
            let to = end - torn;
            // The line stays torn if the file system does not let us.
            let _ = self.file.set_len(to).and_then(|()| self.file.seek(io::SeekFrom::Start(to)));
        }
    }
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&b| b == b'\n').count() as u64
}

fn is_out_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn flags(file: &File) -> i32 {
    // SAFETY: asks about an open descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

/// The same pipe or terminal, by a description of our own that does not block.
fn reopen(file: &File) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A closed pipe is the normal end of `tcpconnect | head`.
pub fn end_of_output(error: io::Error, name: &str) -> Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => bail!("failed to write to {name}: {}", text_of(&error)),
    }
}
