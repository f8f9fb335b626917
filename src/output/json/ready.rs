// SPDX-License-Identifier: Apache-2.0
//! What is written of a process is the same in all its rows, and takes more time than the
//! rest of a row: it is kept ready, beside all that it was made of.

use std::mem::size_of;

use super::process::Cuts;
use crate::clock::BootClock;
use crate::model::process::Ancestor;
use crate::model::process::Image;
use crate::model::process::ProcessFacts;

/// Processes, in places by their pids: those that run at a time mostly have pids near each
/// other. Whoever takes another's place makes its next row as slow as its first, no more.
const PLACES: usize = 4096;
/// With what is kept alive by them, as if nobody else had it.
const MAX_BYTES: usize = 8 << 20;
/// Of one of them, so that none takes the room of many: who makes a process chooses its
/// arguments and ancestors.
const MAX_BYTES_EACH: usize = 32 << 10;

/// What a text depends on, beside options.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) process: &'a ProcessFacts,
    /// As the connect itself saw it.
    pub(super) exe_deleted: bool,
    pub(super) boot: BootClock,
}

/// A text and what it was made of. Programs are the same if they are one; since they are kept,
/// no other can be where they were.
struct Kept {
    process: ProcessFacts,
    exe_deleted: bool,
    boot: BootClock,
    text: Box<[u8]>,
    cuts: Cuts,
    bytes: usize,
}

impl Kept {
    fn is_of(&self, told: Told) -> bool {
        let Kept { process, exe_deleted, boot, .. } = self;
        *exe_deleted == told.exe_deleted && *boot == told.boot && process == told.process
    }
}

#[derive(Default)]
pub(super) struct Ready {
    /// None at all before the first process.
    places: Vec<Option<Box<Kept>>>,
    bytes: usize,
    /// The next to go where there are too many bytes.
    next: usize,
}

impl Ready {
    pub(super) fn find(&self, told: Told) -> Option<(&[u8], &Cuts)> {
        let kept = self.places.get(place(told))?.as_ref().filter(|kept| kept.is_of(told))?;
        Some((&kept.text, &kept.cuts))
    }

    pub(super) fn keep(&mut self, told: Told, text: &[u8], cuts: &Cuts) {
        self.places.resize_with(PLACES, || None);
        let bytes = text.len() + held(told.process);
        self.take(place(told));
        if bytes > MAX_BYTES_EACH {
            return;
        }
        while self.bytes + bytes > MAX_BYTES {
            self.take(self.next);
            self.next = (self.next + 1) % PLACES;
        }
        self.bytes += bytes;
        self.places[place(told)] = Some(Box::new(Kept {
            process: told.process.clone(),
            exe_deleted: told.exe_deleted,
            boot: told.boot,
            text: text.into(),
            cuts: cuts.clone(),
            bytes,
        }));
    }

    fn take(&mut self, place: usize) {
        self.bytes -= self.places[place].take().map_or(0, |kept| kept.bytes);
    }
}

fn place(told: Told) -> usize {
    told.process.pid as usize % PLACES
}

/// Bytes that are kept with it, at most.
fn held(process: &ProcessFacts) -> usize {
    let of_image = |image: &Image| {
        let args = image.args.as_ref().map_or(0, |args| args.len());
        size_of::<Image>() + image.exe.as_ref().map_or(0, |exe| exe.len()) + args
    };
    let of_ancestor = |ancestor: &Ancestor| match ancestor {
        Ancestor::Known { image, .. } => of_image(image),
        Ancestor::LeftOut(_) => 0,
    };
    let ancestors = process.ancestors.as_deref().unwrap_or_default();
    let above: usize = ancestors.iter().map(of_ancestor).sum();
    size_of::<Kept>() + of_image(&process.image) + size_of_val(ancestors) + above
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::model::process::Args;
    use crate::model::process::Comm;
    use crate::model::process::Source;

    fn process(pid: u32, args: usize) -> ProcessFacts {
        let args = Some(Args::new(&vec![b'x'; args]));
        ProcessFacts {
            pid,
            start_ns: u64::from(pid),
            ppid: 1,
            name: Comm::default(),
            image: Rc::new(Image { args, ..Image::default() }),
            source: Source::Exec,
            ancestors: None,
        }
    }

    fn told(process: &ProcessFacts) -> Told<'_> {
        Told { process, exe_deleted: false, boot: BootClock::booted_at(1) }
    }

    #[test]
    fn millions_of_processes_take_no_more_room() {
        let mut ready = Ready::default();
        for pid in 0..100_000 {
            let process = process(pid, pid as usize % 4096);
            ready.keep(told(&process), &vec![b'y'; pid as usize % 8192], &Cuts::default());
            assert!(ready.find(told(&process)).is_some());
            assert!(ready.bytes <= MAX_BYTES && ready.places.len() == PLACES);
        }
        let kept = ready.places.iter().flatten();
        assert_eq!(
            kept.map(|kept| kept.text.len() + held(&kept.process)).sum::<usize>(),
            ready.bytes
        );
    }

    #[test]
    fn what_would_take_the_room_of_many_is_not_kept() {
        let mut ready = Ready::default();
        let process = process(1, 4096);
        ready.keep(told(&process), b"text", &Cuts::default());
        ready.keep(told(&process), &vec![b'y'; MAX_BYTES_EACH], &Cuts::default());
        assert!(ready.find(told(&process)).is_none());
        assert_eq!(ready.bytes, 0);
    }

    #[test]
    fn a_text_is_found_only_by_all_that_it_was_made_of() {
        let mut ready = Ready::default();
        let process = process(1, 10);
        ready.keep(told(&process), b"text", &Cuts::default());
        let found = |told: Told| ready.find(told).is_some();
        let same = ProcessFacts { image: Rc::new(Image::clone(&process.image)), ..process.clone() };
        assert!(found(told(&process)) && found(told(&same)));
        assert!(!found(Told { exe_deleted: true, ..told(&process) }));
        assert!(!found(Told { boot: BootClock::booted_at(2), ..told(&process) }));
        for other in [
            ProcessFacts { start_ns: 2, ..process.clone() },
            ProcessFacts { pid: 1 + PLACES as u32, ..process.clone() },
            ProcessFacts { ancestors: Some(Vec::new()), ..process.clone() },
        ] {
            assert!(!found(told(&other)));
        }
    }
}
