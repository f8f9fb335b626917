// SPDX-License-Identifier: Apache-2.0
//! The reader of the ring. It sees the records through a window that slides over them: from 6.2
//! on each mapped page counts as memory of this process, and libbpf maps all of them twice.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use libbpf_rs::libbpf_sys;
use memmap2::MmapOptions;
use memmap2::MmapRaw;

use crate::clock::monotonic_ns;

/// How much of the ring is mapped at once.
const WINDOW: usize = 64 << 10;
/// What the kernel puts before each record: its length with two flags, and a number of its own.
const HEAD: usize = libbpf_sys::BPF_RINGBUF_HDR_SZ as usize;
const BUSY: u32 = libbpf_sys::BPF_RINGBUF_BUSY_BIT;
const DISCARDED: u32 = libbpf_sys::BPF_RINGBUF_DISCARD_BIT;
/// How often in a row it is looked whether the ring is empty by now.
const LOOKS: usize = 3;
/// Marks that wait for the reader, who passes one with each batch.
const MAX_MARKS: usize = 64;

/// Positions in the ring, each with a time: what gets a place behind it is not older. In
/// positions in bytes that only grow, nanoseconds of CLOCK_MONOTONIC.
#[derive(Default)]
struct Marks(VecDeque<(usize, u64)>);

impl Marks {
    /// At this time all places before this position had been given.
    fn set(&mut self, position: usize, ns: u64) {
        if self.0.back().is_some_and(|&(last, _)| last == position) {
            self.0.pop_back();
        }
        if self.0.len() < MAX_MARKS {
            self.0.push_back((position, ns));
        }
    }

    /// The time of the last mark that the reader has passed now.
    fn passed(&mut self, position: usize) -> Option<u64> {
        let passed = self.0.partition_point(|&(at, _)| at <= position);
        self.0.drain(..passed).next_back().map(|(_, ns)| ns)
    }
}

/// What a reading came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) records: usize,
    /// If that is known anew: what comes later got its place in the ring after this time.
    pub(super) no_older_ns: Option<u64>,
}

pub(super) struct Ring {
    map: RawFd,
    /// Of its records, bytes; a power of two. The kernel has them twice in a row, so that none is
    /// in two parts.
    size: usize,
    page: usize,
    /// The page with the position up to which the reader is, and the one with that up to which
    /// places were given.
    reader: MmapRaw,
    writers: MmapRaw,
    /// A part of the records, and where in the ring it begins.
    window: Option<(usize, MmapRaw)>,
    marks: Marks,
}

impl Ring {
    /// Of a map that stays open for as long as this is used.
    pub(super) fn new(map: RawFd, size: usize, page: usize) -> io::Result<Self> {
        let reader = MmapOptions::new().len(page).map_raw(map)?;
        let writers = MmapOptions::new().offset(page as u64).len(page).map_raw_read_only(map)?;
        Ok(Ring { map, size, page, reader, writers, window: None, marks: Marks::default() })
    }

    /// Reads at most so many records. A record whose task is preempted keeps the reader from all
    /// behind it, however long that takes, so the clock alone does not say what is still to come.
    pub(super) fn consume(&mut self, most: usize, mut to: impl FnMut(&[u8])) -> io::Result<Read> {
        let mut read = Read::default();
        let mut given = self.given();
        for _ in 0..LOOKS {
            let (at, records) = self.read_until(given, most - read.records, &mut to)?;
            read.records += records;
            // The clock comes first: who gets a place after this look reads a later time. The
            // program has such a barrier, too, between its place and its clock.
            let ns = monotonic_ns();
            fence(Ordering::SeqCst);
            given = self.given();
            self.marks.set(given, ns);
            read.no_older_ns = self.marks.passed(at).or(read.no_older_ns);
            // It is empty, or what comes next is being written.
            if at == given || records == 0 || read.records == most {
                break;
            }
        }
        Ok(read)
    }

    /// Up to where places were given.
    fn given(&self) -> usize {
        let given = position(&self.writers).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        given
    }

    /// Where it is then, and how many records it has read.
    fn read_until(
        &mut self,
        given: usize,
        most: usize,
        to: &mut impl FnMut(&[u8]),
    ) -> io::Result<(usize, usize)> {
        let mut at = position(&self.reader).load(Ordering::Relaxed);
        let mut records = 0;
        while at != given && records < most {
            let offset = at & (self.size - 1);
            let head = self.bytes(offset, HEAD)?;
            // SAFETY: the first four bytes of the head, which the kernel has aligned to eight.
            let len = unsafe { AtomicU32::from_ptr(head.cast()) }.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if len & BUSY != 0 {
                break;
            }
            let size = (len & !DISCARDED) as usize;
            if len & DISCARDED == 0 {
                let record = self.bytes(offset, HEAD + size)?;
                // SAFETY: so many bytes behind the head are mapped, and nobody writes there
                // before the position says that they are read.
                to(unsafe { std::slice::from_raw_parts(record.add(HEAD), size) });
                records += 1;
            }
            at = at.wrapping_add(HEAD + size.next_multiple_of(HEAD));
            position(&self.reader).store(at, Ordering::Release);
        }
        Ok((at, records))
    }

    /// Bytes of the records, in the window: if it does not have them it slides there.
    fn bytes(&mut self, offset: usize, len: usize) -> io::Result<*mut u8> {
        let has = |(start, window): &(usize, MmapRaw)| {
            *start <= offset && offset + len <= start + window.len()
        };
        if !self.window.as_ref().is_some_and(has) {
            // No two at a time.
            self.window = None;
            let start = offset - offset % self.page;
            // None is larger than the ring, which is there twice.
            let end = (start + WINDOW).max(offset + len).min(2 * self.size);
            let at = (2 * self.page + start) as u64;
            let window =
                MmapOptions::new().offset(at).len(end - start).map_raw_read_only(self.map)?;
            self.window = Some((start, window));
        }
        let (start, window) = self.window.as_ref().expect("it is there by now");
        Ok(window.as_mut_ptr().wrapping_add(offset - start))
    }
}

/// The position with which this page begins.
fn position(page: &MmapRaw) -> &AtomicUsize {
    // SAFETY: the kernel has an unsigned long at the beginning of the page, and the page is mapped
    // for as long as it is borrowed. Of one that is read-only it is only loaded, and relaxed, as
    // such memory allows.
    unsafe { AtomicUsize::from_ptr(page.as_mut_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::MemfdFlags;
    use rustix::fs::memfd_create;
    use rustix::param::page_size;

    use super::*;

    /// As the kernel's ring is mapped: two pages of positions, and the records twice.
    struct Fake {
        file: File,
        size: usize,
        given: usize,
    }

    impl Fake {
        fn new(size: usize) -> (Self, Ring) {
            let file = File::from(memfd_create(c"ring", MemfdFlags::CLOEXEC).unwrap());
            file.set_len((2 * page_size() + 2 * size) as u64).unwrap();
            let ring = Ring::new(file.as_raw_fd(), size, page_size()).unwrap();
            (Fake { file, size, given: 0 }, ring)
        }

        fn put(&self, at: usize, bytes: &[u8]) {
            for (i, byte) in bytes.iter().enumerate() {
                let at = 2 * page_size() + (at + i) % self.size;
                for copy in [at, at + self.size] {
                    self.file.write_all_at(&[*byte], copy as u64).unwrap();
                }
            }
        }

        fn finish(&self, at: usize, len: usize, flags: u32) {
            self.put(at, &(len as u32 | flags).to_ne_bytes());
        }

        /// A place is given; returns it.
        fn reserve(&mut self, record: &[u8]) -> usize {
            let at = self.given;
            self.finish(at, record.len(), BUSY);
            self.put(at + HEAD, record);
            self.given += HEAD + record.len().next_multiple_of(HEAD);
            self.file.write_all_at(&self.given.to_ne_bytes(), page_size() as u64).unwrap();
            at
        }

        fn submit(&mut self, record: &[u8]) {
            let at = self.reserve(record);
            self.finish(at, record.len(), 0);
        }

        fn read_so_far(&self) -> usize {
            let mut position = [0; size_of::<usize>()];
            self.file.read_exact_at(&mut position, 0).unwrap();
            usize::from_ne_bytes(position)
        }
    }

    fn read(ring: &mut Ring, most: usize) -> (Vec<Vec<u8>>, Read) {
        let mut records = Vec::new();
        let read = ring.consume(most, |record| records.push(record.to_vec())).unwrap();
        assert_eq!(read.records, records.len());
        (records, read)
    }

    #[test]
    fn each_record_is_whole_wherever_it_lies() {
        for size in [page_size(), 2 * WINDOW, 4 * WINDOW] {
            let (mut fake, mut ring) = Fake::new(size);
            let mut next = 0;
            while fake.given < 3 * size {
                // Of many lengths, so that each border is inside of one.
                let batch: Vec<_> =
                    (next..next + 3).map(|i| vec![i as u8; 1 + i * 37 % 1200]).collect();
                next += 3;
                batch.iter().for_each(|record| fake.submit(record));
                assert_eq!(read(&mut ring, 100).0, batch);
                assert_eq!(fake.read_so_far(), fake.given);
                assert!(ring.window.as_ref().unwrap().1.len() <= WINDOW);
            }
        }
    }

    #[test]
    fn one_that_is_as_large_as_the_ring_is_read() {
        let (mut fake, mut ring) = Fake::new(4 * WINDOW);
        fake.submit(&[1; 100]);
        let large = vec![2; 3 * WINDOW];
        fake.submit(&large);
        assert_eq!(read(&mut ring, 100).0, [vec![1; 100], large]);
    }

    #[test]
    fn a_writer_that_is_held_up_keeps_time_and_records_back() {
        let (mut fake, mut ring) = Fake::new(page_size());
        fake.submit(b"first");
        let held = fake.reserve(b"held");
        fake.submit(b"third");
        let (records, before) = read(&mut ring, 100);
        assert_eq!((records, before.no_older_ns), (vec![b"first".to_vec()], None));
        assert_eq!(read(&mut ring, 100), (Vec::new(), Read::default()));
        let now_ns = monotonic_ns();
        fake.finish(held, 4, 0);
        let (records, after) = read(&mut ring, 100);
        assert_eq!(records, [b"held".to_vec(), b"third".to_vec()]);
        assert!(after.no_older_ns.is_some_and(|ns| ns >= now_ns));
    }

    #[test]
    fn an_empty_ring_lets_time_pass_and_a_batch_does_not() {
        let (mut fake, mut ring) = Fake::new(page_size());
        let now_ns = monotonic_ns();
        assert!(read(&mut ring, 2).1.no_older_ns.is_some_and(|ns| ns >= now_ns));
        (0..3).for_each(|i| fake.submit(&[i]));
        let (records, batch) = read(&mut ring, 2);
        assert_eq!((records.len(), batch.no_older_ns), (2, None));
        assert!(read(&mut ring, 2).1.no_older_ns.is_some());
    }

    #[test]
    fn what_was_taken_back_is_passed_over() {
        let (mut fake, mut ring) = Fake::new(page_size());
        let at = fake.reserve(b"dropped");
        fake.finish(at, 7, DISCARDED);
        fake.submit(b"kept");
        assert_eq!(read(&mut ring, 100).0, [b"kept".to_vec()]);
    }

    #[test]
    fn a_record_that_is_not_finished_keeps_the_time_back() {
        let mut marks = Marks::default();
        marks.set(100, 1);
        assert_eq!(marks.passed(40), None, "one at 40 is being written");
        marks.set(300, 2);
        assert_eq!(marks.passed(40), None);
        assert_eq!(marks.passed(200), Some(1));
        marks.set(300, 3);
        assert_eq!(marks.passed(300), Some(3), "nothing had got a place since 2");
        marks.set(300, 4);
        assert_eq!(marks.passed(300), Some(4), "an empty ring lets time pass");
    }

    #[test]
    fn marks_do_not_grow() {
        let mut marks = Marks::default();
        (1..1000).for_each(|at| marks.set(at, at as u64));
        assert_eq!(marks.0.len(), MAX_MARKS);
        assert_eq!(marks.passed(999), Some(MAX_MARKS as u64));
    }
}
