// SPDX-License-Identifier: Apache-2.0
//! The process that writes a recording. One thread takes lines from the tracer, whatever the disk
//! does, and one writes them; what there is no room for meanwhile is counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::io::PipeReader;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::store::Store;
use super::store::lock;
use crate::clock::unix_now_ns;
use crate::error::text_of;
use crate::error::warn;
use crate::output::json::mark;

/// Bytes that may wait for a disk: 30 s of 1,000 connections a second.
const MAX_WAITING: usize = 64 << 20;
/// Bytes that are taken at once.
const PIECE: usize = 256 << 10;
const SYNC: Duration = Duration::from_secs(1);
/// How often -v says how far it is. What is lost is told anew if nothing was for so long.
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that did not fit.
    lost: u64,
    has_ended: bool,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nobody panics with it held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, lines: Vec<u8>) {
        let mut waiting = self.waiting();
        match waiting.bytes + lines.len() <= MAX_WAITING {
            true => {
                waiting.bytes += lines.len();
                waiting.lines.push_back(lines);
            }
            false => waiting.lost += count(&lines),
        }
        self.changed.notify_one();
    }

    fn end(&self) {
        self.waiting().has_ended = true;
        self.changed.notify_one();
    }

    /// The next lines, how many were lost before them, and whether no more will come.
    fn take(&self, within: Duration) -> (Vec<u8>, u64, bool) {
        let waiting = self.waiting();
        let is_idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.has_ended;
        let waited = self.changed.wait_timeout_while(waiting, within, is_idle);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let lines = waiting.lines.pop_front().unwrap_or_default();
        waiting.bytes -= lines.len();
        let is_over = waiting.has_ended && waiting.lines.is_empty();
        (lines, std::mem::take(&mut waiting.lost), is_over)
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&b| b == b'\n').count() as u64
}

/// Until the tracer says no more, or is no more. By `asked` it wants a new file.
pub(super) fn keep(store: Store, from: PipeReader, asked: PipeReader, is_verbose: bool) -> bool {
    let queue = Arc::new(Queue::default());
    let lines = Arc::clone(&queue);
    let writer = thread::spawn(move || Writer::new(store, asked, is_verbose).run(&lines));
    if let Err(e) = take_lines(from, &queue) {
        warn(&format!("tcpconnect: --record: {}", text_of(&e)));
    }
    queue.end();
    writer.join().is_ok_and(|is_whole| is_whole)
}

/// Of a tracer that was killed a line may be there in part: it is left out.
fn take_lines(mut from: impl io::Read, queue: &Queue) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut part = Vec::new();
    loop {
        let read = match from.read(&mut piece) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(());
        }
        let read = &piece[..read];
        let end = read.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        if end > 0 {
            // What waits has no more room than it needs, for there may be many.
            queue.add([&part, &read[..end]].concat());
            part.clear();
        }
        part.extend_from_slice(&read[end..]);
    }
}

/// The thread that makes Parquet files of logs, in a build that can.
struct Sealer {
    #[cfg(feature = "parquet")]
    thread: (mpsc::SyncSender<()>, thread::JoinHandle<()>),
}

#[cfg(feature = "parquet")]
impl Sealer {
    fn start(store: &Arc<Mutex<Store>>) -> Self {
        // One word that there may be logs is as good as two.
        let (say, closed) = mpsc::sync_channel(1);
        let store = Arc::clone(store);
        Sealer { thread: (say, thread::spawn(move || super::seal::run(&store, &closed))) }
    }

    fn wake(&self) {
        let _ = self.thread.0.try_send(());
    }

    /// Once it has made all.
    fn finish(self) {
        let (say, thread) = self.thread;
        drop(say);
        let _ = thread.join();
    }
}

#[cfg(not(feature = "parquet"))]
impl Sealer {
    fn start(_: &Arc<Mutex<Store>>) -> Self {
        Sealer {}
    }

    fn wake(&self) {}

    fn finish(self) {}
}

/// The thread that waits for the disk. What was written is in the hands of the kernel meanwhile, and
/// who kills this process takes no more than what was on its way here.
struct Syncer {
    to: mpsc::SyncSender<Vec<File>>,
    thread: thread::JoinHandle<()>,
    /// Those that it has no time for yet.
    waiting: Vec<File>,
}

impl Syncer {
    fn start() -> Self {
        let (to, files) = mpsc::sync_channel::<Vec<File>>(1);
        let thread = thread::spawn(move || {
            for file in files.iter().flatten() {
                if let Err(e) = file.sync_data() {
                    warn(&format!("tcpconnect: --record: {}", text_of(&e)));
                }
            }
        });
        Syncer { to, thread, waiting: Vec::new() }
    }

    fn add(&mut self, files: Vec<File>) {
        self.waiting.extend(files);
        if self.waiting.is_empty() {
            return;
        }
        let files = std::mem::take(&mut self.waiting);
        if let Err(mpsc::TrySendError::Full(files)) = self.to.try_send(files) {
            self.waiting = files;
        }
    }

    /// Once all is on disk.
    fn finish(self) {
        let Syncer { to, thread, waiting } = self;
        let _ = to.send(waiting);
        drop(to);
        let _ = thread.join();
    }
}

struct Writer {
    store: Arc<Mutex<Store>>,
    sealer: Sealer,
    syncer: Syncer,
    /// Does not block.
    asked: PipeReader,
    is_verbose: bool,
    /// Not yet said in the recording.
    lost: u64,
    lost_in_all: u64,
    lines: u64,
    /// Lines have come that no power cut may take. A disk that sleeps is not woken each second for
    /// one that says that somebody looks.
    is_unsynced: bool,
    /// Why the last one was lost, which is said once.
    told: Option<String>,
    lost_at: Instant,
    synced: Instant,
    reported: Instant,
}

impl Writer {
    fn new(store: Store, asked: PipeReader, is_verbose: bool) -> Self {
        let now = Instant::now();
        let store = Arc::new(Mutex::new(store));
        Writer {
            sealer: Sealer::start(&store),
            syncer: Syncer::start(),
            store,
            asked,
            is_verbose,
            lost: 0,
            lost_in_all: 0,
            lines: 0,
            is_unsynced: false,
            told: None,
            lost_at: now,
            synced: now,
            reported: now,
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// False if something was lost.
    fn run(mut self, queue: &Queue) -> bool {
        loop {
            let (lines, lost, is_over) = queue.take(SYNC);
            if lost > 0 {
                self.lose(lost, "the disk is too slow");
            }
            if !lines.is_empty() {
                self.put(&lines);
            }
            if is_over {
                break;
            }
            if self.asked.read(&mut [0; 64]).is_ok_and(|asked| asked > 0) {
                self.next_file();
            }
            if self.synced.elapsed() >= SYNC {
                self.sync();
            }
            if self.is_verbose && self.reported.elapsed() >= MINUTE {
                self.report();
            }
        }
        // The last of its losses has no line behind it.
        self.put(&[]);
        self.store().finish();
        self.sync();
        self.syncer.finish();
        self.sealer.finish();
        if self.lost_in_all > 0 {
            warn(&format!("tcpconnect: --record: {} lines are not kept", self.lost_in_all));
        }
        self.lost_in_all == 0
    }

    /// No line comes after a loss before that is told, least of all the one that says that this is
    /// all.
    fn put(&mut self, lines: &[u8]) {
        let written = self.tell_lost().and_then(|()| match lines {
            [] => Ok(()),
            lines => self.store().put(lines),
        });
        match written {
            Err(e) => self.lose(count(lines), &text_of(&e)),
            Ok(()) => {
                self.lines += count(lines);
                self.is_unsynced |= !mark::is_alive(lines);
                if self.lost_at.elapsed() >= MINUTE {
                    self.told = None;
                }
            }
        }
    }

    fn tell_lost(&mut self) -> io::Result<()> {
        if self.lost > 0 {
            let mut line = Vec::new();
            mark::lost(unix_now_ns(), self.lost, &mut line);
            self.store().put(&line)?;
            self.lost = 0;
        }
        Ok(())
    }

    fn lose(&mut self, lines: u64, why: &str) {
        self.lost_at = Instant::now();
        self.lost += lines;
        self.lost_in_all += lines;
        if self.told.as_deref() != Some(why) {
            warn(&format!("tcpconnect: --record: {why}; lines are counted until there is room"));
            self.told = Some(why.to_owned());
        }
    }

    /// What was lost before belongs to the file before.
    fn next_file(&mut self) {
        if let Err(e) = self.tell_lost() {
            warn(&format!("tcpconnect: --record: {}", text_of(&e)));
        }
        self.store().finish();
    }

    fn sync(&mut self) {
        self.synced = Instant::now();
        self.sealer.wake();
        // One that the disk has not taken yet will be whole once it has.
        let wanted = self.is_unsynced && self.syncer.waiting.is_empty();
        let files = self.store().take_unsynced(wanted);
        match files {
            Err(e) => warn(&format!("tcpconnect: --record: {}", text_of(&e))),
            Ok(files) => {
                self.is_unsynced &= !wanted;
                self.syncer.add(files);
            }
        }
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        let (used, files) = (self.store().used(), self.store().files());
        let lines = self.lines;
        warn(&format!("tcpconnect: recorded {lines} lines; {used} bytes in {files} files"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some bytes at a time, with a signal before each.
    struct Pieces<'a> {
        left: &'a [u8],
        is_interrupted: bool,
    }

    impl io::Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.is_interrupted = !self.is_interrupted;
            if self.is_interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let (piece, left) = self.left.split_at(self.left.len().min(3));
            self.left = left;
            to[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn lines_wait_whole_and_in_no_more_room_than_they_need() {
        let queue = Queue::default();
        let from = Pieces { left: b"ab\ncdefgh\ni\njk\nlm", is_interrupted: false };
        take_lines(from, &queue).unwrap();
        let waiting = queue.waiting();
        assert_eq!(
            waiting.lines.iter().flatten().copied().collect::<Vec<_>>(),
            b"ab\ncdefgh\ni\njk\n"
        );
        assert!(waiting.lines.iter().all(|lines| lines.capacity() == lines.len()));
        assert_eq!(waiting.bytes, 15);
    }
}
