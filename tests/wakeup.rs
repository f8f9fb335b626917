// SPDX-License-Identifier: Apache-2.0
//! The protocol between the programs in the kernel and a reader that is about to sleep, as
//! ARCHITECTURE.md draws it, in each order that the memory of a machine may show. The words are
//! those of src/bpf/submit.bpf.h and src/kernel/ring.rs.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::AcqRel;
use loom::sync::atomic::Ordering::Acquire;
use loom::sync::atomic::Ordering::Relaxed;
use loom::sync::atomic::Ordering::Release;
use loom::sync::atomic::Ordering::SeqCst;
use loom::sync::atomic::fence;
use loom::thread;

const WRITERS: usize = 2;

/// What both see.
struct Shared {
    /// Places that were given, in order. The kernel gives them under a lock.
    given: AtomicUsize,
    submitted: [AtomicBool; WRITERS],
    reader_waits: AtomicBool,
    /// How often the wait queue was woken.
    woken: AtomicUsize,
    /// Each look at it sees a later time.
    clock: AtomicUsize,
}

impl Shared {
    fn new(reader_waits: bool) -> Self {
        Shared {
            given: AtomicUsize::new(0),
            submitted: [AtomicBool::new(false), AtomicBool::new(false)],
            reader_waits: AtomicBool::new(reader_waits),
            woken: AtomicUsize::new(0),
            clock: AtomicUsize::new(0),
        }
    }

    /// submit_ring(): the place, and the time of its record.
    fn submit(&self, has_barrier: bool) -> (usize, usize) {
        let place = self.given.fetch_add(1, AcqRel);
        if has_barrier {
            fence(SeqCst);
        }
        let time = self.clock.fetch_add(1, Relaxed);
        let wakes = self.reader_waits.load(Relaxed);
        if wakes {
            self.reader_waits.store(false, Relaxed);
        }
        self.submitted[place].store(true, Release);
        if wakes {
            self.woken.fetch_add(1, SeqCst);
        }
        (place, time)
    }

    /// Ring::consume(): how many were read, and the horizon if it is known.
    fn read(&self, from: usize) -> (usize, Option<usize>) {
        let mut read = from;
        let given = self.given.load(Acquire);
        while read < given && self.submitted[read].load(Acquire) {
            read += 1;
        }
        let time = self.clock.fetch_add(1, Relaxed);
        fence(SeqCst);
        (read, (self.given.load(Acquire) == read).then_some(time))
    }

    /// Asks to be woken, and goes to sleep unless poll() finds something in the ring: true if it
    /// sleeps, and how often the queue had been woken before.
    fn sleeps(&self, read: usize) -> (bool, usize) {
        self.reader_waits.store(true, Relaxed);
        fence(SeqCst);
        let woken = self.woken.fetch_add(0, SeqCst);
        (self.given.load(Acquire) == read, woken)
    }
}

/// Those that write; each tells its place and its time.
type Writers = Vec<thread::JoinHandle<(usize, usize)>>;

fn check(has_barrier: bool, model: fn(&Arc<Shared>, Writers)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let shared = Arc::new(Shared::new(true));
        let submit = || {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.submit(has_barrier))
        };
        let writers = (0..WRITERS).map(|_| submit()).collect();
        model(&shared, writers);
    });
}

/// It reads what there is and sleeps: then either nothing is left, or somebody wakes it.
fn wakeup(shared: &Arc<Shared>, writers: Writers) {
    let (read, _) = shared.read(0);
    let (sleeps, woken) = shared.sleeps(read);
    writers.into_iter().for_each(|writer| drop(writer.join()));
    let is_woken = shared.woken.load(SeqCst) > woken;
    assert!(!sleeps || read == WRITERS || is_woken, "asleep with {read} read");
}

/// What is read later than a horizon is not older than it.
fn order(shared: &Arc<Shared>, writers: Writers) {
    let (read, horizon) = shared.read(0);
    let written: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    let mut later = written.iter().filter(|(place, _)| *place >= read);
    assert!(later.all(|(_, time)| horizon.is_none_or(|horizon| *time > horizon)), "out of order");
}

#[test]
fn no_reader_sleeps_through_a_record() {
    check(true, wakeup);
}

#[test]
#[should_panic(expected = "asleep with")]
fn without_the_barrier_one_does() {
    check(false, wakeup);
}

#[test]
fn no_record_is_older_than_those_that_were_printed_before_it() {
    check(true, order);
}

#[test]
#[should_panic(expected = "out of order")]
fn without_the_barrier_one_is() {
    check(false, order);
}
