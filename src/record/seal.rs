// SPDX-License-Identifier: Apache-2.0
//! Logs that are closed become Parquet files, by a thread of their own: what comes meanwhile is
//! written without waiting for them. A log goes when its file is whole and on disk.

use std::fs::File;
use std::io;
use std::io::BufReader;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use anyhow::Result;
use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;
use rustix::fs::unlinkat;

use super::store::Log;
use super::store::PRIVATE_FILE;
use super::store::Store;
use super::store::lock;
use crate::error::warn;
use crate::output::parquet;

/// Bytes that are read at once: a line takes 1.3 KB.
const BUFFER: usize = 128 << 10;

/// Until nobody says any more that there are logs, and there are none.
pub(super) fn run(store: &Arc<Mutex<Store>>, closed: &Receiver<()>) {
    loop {
        let is_over = closed.recv().is_err();
        // The guard is not to be held in the body.
        while let Some(log) = { lock(store).next_log() } {
            if let Err(why) = seal(store, &log) {
                warn(&format!("tcpconnect: --record: {} stays a log: {why:#}", log.path()));
                lock(store).keep_log(&log);
            }
        }
        if is_over {
            return;
        }
    }
}

fn seal(store: &Arc<Mutex<Store>>, log: &Log) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let unfinished = log.unfinished();
    let (from, file) = {
        let store = lock(store);
        let from = openat(store.root(), log.path(), flags, Mode::empty())?;
        (from, openat(store.root(), &*unfinished, new, PRIVATE_FILE)?)
    };
    let mut to = Sealed { file: file.into(), store, log, written: 0 };
    let written =
        parquet::write::write(&mut BufReader::with_capacity(BUFFER, File::from(from)), &mut to);
    let written = written.and_then(|()| Ok(to.file.sync_all()?));
    let len = to.written;
    let (folder, log_len) = {
        let mut store = lock(store);
        let placed = written.and_then(|()| Ok(store.put_in_place(log, len)?));
        if !matches!(placed, Ok(Some(_))) {
            let _ = unlinkat(store.root(), unfinished, AtFlags::empty());
            store.release(len);
        }
        let Some(placed) = placed? else { return Ok(()) };
        placed
    };
    // Before its name is on disk the log is all there is. Lines are written meanwhile.
    folder.sync_all()?;
    lock(store).drop_log(log, log_len);
    Ok(())
}

/// What is written is counted before: the bounds hold at any time.
struct Sealed<'a> {
    file: File,
    store: &'a Mutex<Store>,
    log: &'a Log,
    written: u64,
}

impl Write for Sealed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len() as u64;
        lock(self.store).reserve(self.log, len)?;
        self.written += len;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
